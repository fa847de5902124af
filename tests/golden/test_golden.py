"""Our numbers against stored ones, made with the authors' formulas."""

from pathlib import Path

import pytest
import torch

from tests.golden.files import DEFAULT, checkable, compute, differences, files_of, folder_of, golden_dir, read
from tests.golden.kinds import METHODS, tolerances_of

DTYPES = (torch.float64, torch.float32)


@pytest.fixture
def directory(request: pytest.FixtureRequest) -> Path:
    directory = golden_dir(request.config)
    if directory == DEFAULT and not DEFAULT.is_dir():
        pytest.skip(f'no golden vectors: {DEFAULT} does not exist')
    return directory


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_file(golden_file: Path, dtype: torch.dtype) -> None:
    kind, arrays = read(golden_file)
    assert tolerances_of(golden_file.parent.name, kind, arrays), f'{golden_file} stores no result of kind {kind!r}'
    wrong = differences(golden_file, kind, arrays, compute(golden_file, kind, arrays, dtype), dtype)
    assert not wrong, wrong


def test_directory_has_something_to_check(directory: Path) -> None:
    assert checkable(directory), (
        f'{directory} holds no golden file that can be checked; it must hold a folder per method: {", ".join(METHODS)}'
    )


@pytest.mark.parametrize('method', METHODS)
def test_folder(directory: Path, method: str) -> None:
    folder = folder_of(directory, method)
    if not folder.is_dir():
        pytest.skip(f'{directory} has no folder {method}')
    assert files_of(folder), f'{folder} is empty'
