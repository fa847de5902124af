"""The golden check itself: it must not pass where nothing, or nothing readable, was compared."""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from tests import gloo
from tests.golden.files import DEFAULT

ROOT = Path(__file__).resolve().parents[2]


def _run(*options: str, **variables: str) -> tuple[int, str]:
    with TemporaryDirectory() as folder:
        gloo.start(_pytest, folder, options, variables, processes=1)
        return int(Path(folder, 'code').read_text()), Path(folder, 'output').read_text()


def _pytest(_: int, folder: str, options: tuple[str, ...], variables: dict[str, str]) -> None:
    """Do what ``python -m pytest`` does, in a process of its own."""
    os.environ.update(variables)
    sys.argv = ['pytest', str(ROOT / 'tests/golden/test_golden.py'), '-q', *options]
    with Path(folder, 'output').open('w') as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        code = int(pytest.main())
        sys.stdout.flush(), sys.stderr.flush()
    Path(folder, 'code').write_text(str(code))


def _write(path: Path, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def test_an_empty_directory_fails(tmp_path: Path) -> None:
    code, output = _run('--golden-dir', os.path.relpath(tmp_path))  # from where pytest is called
    assert code == 1
    assert 'holds no golden file that can be checked' in output
    assert f'golden: 0 files checked in {tmp_path}' in output
    assert f'golden: afdcd skipped: {tmp_path} has no such folder' in output


def test_bad_files_fail_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / 'afdcd').mkdir()
    (tmp_path / 'afdcd' / 'broken.npz').write_bytes(b'not a zip file')
    _write(tmp_path / 'afdcd' / 'other.npz', kind=np.array('mystery'))
    code, output = _run('--golden-dir', str(tmp_path))
    assert code == 1
    assert 'cannot be read as a golden file of afdcd' in output
    assert "is of kind 'mystery'; afdcd has ['ctr', 'kd', 'module']" in output
    assert 'golden: 2 files checked' in output


@pytest.mark.soak
def test_ci_needs_one_file_except_in_the_long_tests() -> None:
    nothing = pytest.ExitCode.NO_TESTS_COLLECTED
    code, output = _run('-k', 'no_such_test', CI='true')
    assert code == (pytest.ExitCode.TESTS_FAILED if DEFAULT.is_dir() else nothing)
    assert ('no file was checked' in output) == DEFAULT.is_dir()
    assert _run('-m', 'soak', CI='true')[0] == _run('-k', 'no_such_test', CI='')[0] == nothing
