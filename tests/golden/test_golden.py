"""Our numbers against stored ones, made with the authors' formulas."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden.files import DEFAULT, checkable, compute, differences, files_of, folder_of, golden_dir, perturb, read
from tests.golden.kinds import METHODS, tolerances_of

DTYPES = (torch.float64, torch.float32)


@cache
def computed(path: Path, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Our numbers, which both tests of a file look at."""
    return compute(path, *read(path), dtype)


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
    wrong = differences(golden_file, kind, arrays, computed(golden_file, dtype), dtype)
    assert not wrong, wrong


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_ten_tolerances_are_too_much(golden_file: Path, dtype: torch.dtype) -> None:
    kind, arrays = read(golden_file)
    values = computed(golden_file, dtype)
    for name, tolerance in tolerances_of(golden_file.parent.name, kind, arrays).items():
        changed = perturb(arrays, name, 10 * tolerance.allowed(arrays[name], dtype))
        assert list(differences(golden_file, kind, changed, values, dtype)) == [name]


def test_directory_has_something_to_check(directory: Path) -> None:
    assert checkable(directory), (
        f'{directory} holds no golden file that can be checked; it must hold a folder per method: {", ".join(METHODS)}'
    )


def test_every_folder_is_of_a_known_method(directory: Path) -> None:
    folders = [path for path in directory.iterdir() if path.is_dir() and files_of(path)]
    unknown = [path.name for path in folders if path.name not in METHODS]
    assert not unknown, f'{directory} holds folders of unknown methods: {unknown}; known are {sorted(METHODS)}'


@pytest.mark.parametrize('method', METHODS)
def test_folder(directory: Path, method: str) -> None:
    folder = folder_of(directory, method)
    if not folder.is_dir():
        pytest.skip(f'{directory} has no folder {method}')
    assert files_of(folder), f'{folder} is empty'
