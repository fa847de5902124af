"""No test sees what a user keeps in the clone or at home."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.isolation import OWN, ROOT, USERS, WATCH, Watch

TEACHER = 'work_dirs/demo/teacher/iter_700.pth'


def run(clone: Path, *words: Path | str, **variables: str) -> str:
    """Run tests of another clone from that clone, in a process of their own; returns what pytest says."""
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *map(str, words)]
    environment = {**os.environ, 'PYTHONPATH': f'{clone}{os.pathsep}{clone}/.venv', **variables}
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_a_test_begins_in_an_empty_folder_with_an_empty_home() -> None:
    assert not Path.cwd().is_relative_to(ROOT) and not list(Path.cwd().iterdir())
    assert not list(Path.home().iterdir())
    assert Path.home() != Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert not set(USERS) & set(os.environ)
    Path('left').touch()


def test_what_another_test_left_is_gone() -> None:
    assert not list(Path.cwd().iterdir())


def _listed(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        os.listdir(path)


def _opened(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        path.open()


def _began(**options: object) -> None:
    subprocess.run([sys.executable, '-c', ''], check=True, **options)  # type: ignore[call-overload]


LOOKS: dict[str, tuple[Callable[[], object], str]] = {
    'stat': (lambda: (ROOT / TEACHER).is_file(), f'{TEACHER} (stat'),
    'lstat': (lambda: os.path.lexists(f'{ROOT}/my_pair.py'), 'my_pair.py (lstat'),
    'open': (lambda: _opened(ROOT / 'tests/../my_no_student.py'), 'my_no_student.py (open'),
    'list': (lambda: _listed(ROOT / 'data/no_such_set'), 'data/no_such_set (listdir'),
    'walk': (lambda: list((ROOT / 'work_dirs').rglob('*.none')), 'work_dirs ('),
    'start': (lambda: _began(cwd=ROOT), f'{ROOT} (the working folder of {sys.executable}'),
    'home': (
        lambda: _began(env={'PATH': os.environ['PATH']}),
        f'HOME ({sys.executable} is started with that of the user',
    ),
}


@pytest.mark.parametrize(('look', 'noted'), LOOKS.values(), ids=LOOKS)
def test_a_look_at_a_users_files_is_noted(
    look: Callable[[], object], noted: str, request: pytest.FixtureRequest
) -> None:
    look()
    seen = request.config.stash[WATCH].take()
    assert any(one.startswith(noted) and one.endswith(')') and 'tests/test_isolation.py:' in one for one in seen), seen


def test_going_into_the_clone_is_noted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / 'tests')
    assert request.config.stash[WATCH].take()[0].startswith(f'{ROOT}/tests (its working folder')


def test_the_projects_own_files_are_free() -> None:
    watch = Watch()
    free = [ROOT, ROOT / 'README.md', f'{ROOT}/configs/kd', os.fsencode(ROOT / 'docs'), 'my_pair.py', 3, ROOT / '../x']
    assert [watch.foreign(path) for path in free] == [None] * len(free)
    assert all((ROOT / name).exists() for name in OWN - {'.git'})  # a release has none


@pytest.mark.soak
def test_a_test_that_looks_fails(tmp_path: Path) -> None:
    (tmp_path / 'tests').mkdir()
    for name in ('setup.cfg', 'tests/__init__.py', 'tests/conftest.py', 'tests/isolation.py'):
        shutil.copy(ROOT / name, tmp_path / name)
    file = tmp_path / 'tests/test_it.py'
    file.write_text(
        f'from tests.isolation import ROOT\ndef test_looks():\n    assert not (ROOT / {TEACHER!r}).exists()\n'
        "def test_does_not():\n    assert not (ROOT / 'docs').exists()\n"
    )
    (tmp_path / '.venv').mkdir()  # a library that looks around in the clone, as pytest does
    library = f"import os\ndef pytest_runtest_setup(item):\n    os.path.exists(f'{tmp_path}/my_pair.py')\n"
    (tmp_path / '.venv/library.py').write_text(library)
    said = run(tmp_path, file, PYTEST_ADDOPTS='-p library')
    assert '2 passed, 1 error' in said
    assert 'Seen (1)' in said
    assert 'A test looked at what a user keeps in the clone' in said
    assert f'{TEACHER} (stat; tests/test_it.py:3)' in said
    file.write_text(f'from tests.isolation import ROOT\nTHERE = (ROOT / {TEACHER!r}).exists()\ndef test_it(): pass\n')
    assert f'{TEACHER} (stat; tests/test_it.py:2)' in run(tmp_path, file), 'while it is imported, too'
    link = tmp_path / 'link'
    link.symlink_to(tmp_path)
    assert f'{TEACHER} (stat; tests/test_it.py:2)' in run(link, link / 'tests/test_it.py'), 'and through a link'
