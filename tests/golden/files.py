"""Finding, reading and comparing golden files."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden.kinds import METHODS, Arrays, load_npz, tolerances_of

DEFAULT = Path(__file__).resolve().parents[3] / 'shared' / 'golden'
NEXT = DEFAULT.with_name('golden_next')


def golden_dir(config: pytest.Config) -> Path:
    """Return the folder that is asked for; a relative path begins where pytest was called."""
    given = config.getoption('--golden-dir')
    return Path(os.path.normpath(config.invocation_params.dir / given)) if given else DEFAULT


def files_of(folder: Path) -> list[Path]:
    """Return the golden files of a method's folder; whatever else lies there is ignored."""
    return sorted(folder.glob('*.npz'))


def checkable(directory: Path) -> list[Path]:
    """Return every golden file of the methods that are built."""
    return [path for method in METHODS for path in files_of(folder_of(directory, method))]


def folder_of(directory: Path, method: str) -> Path:
    """Return a method's folder; those beyond the formulas of the three papers are beside the default directory."""
    if directory != DEFAULT or (directory / method).is_dir():
        return directory / method
    return DEFAULT.with_name(method) if method == 'trajectories' else NEXT / method


def read(path: Path) -> tuple[str, Arrays]:
    """Return the kind and the arrays of a file of a known method.

    Raises:
        ValueError: For a file that cannot be read or whose kind the method does not have.
    """
    method = METHODS[path.parent.name]
    try:
        arrays = load_npz(path)
        kind = method.kind_of(path, arrays)
    except Exception as error:
        raise ValueError(f'{path} cannot be read as a golden file of {path.parent.name}: {error!r}') from error
    if kind not in method.kinds:
        raise ValueError(f'{path} is of kind {kind!r}; {path.parent.name} has {sorted(method.kinds)}')
    return kind, arrays


def compute(path: Path, kind: str, arrays: Arrays, dtype: torch.dtype) -> dict[str, np.ndarray]:
    values: Mapping[str, Tensor] = METHODS[path.parent.name].kinds[kind](arrays, dtype)
    return {name: value.detach().double().numpy() for name, value in values.items()}


def differences(
    path: Path, kind: str, arrays: Arrays, values: Mapping[str, np.ndarray], dtype: torch.dtype
) -> dict[str, str]:
    """Return what is wrong by array: results missing, of another shape, or further off than the table allows."""
    wrong = {}
    for name, tolerance in tolerances_of(path.parent.name, kind, arrays).items():
        stored = arrays[name].astype(np.float64)
        if name not in values or values[name].shape != stored.shape:
            wrong[name] = f'stored {stored.shape}, computed {values[name].shape if name in values else "nothing"}'
            continue
        error = np.abs(values[name] - stored).max()
        allowed = tolerance.allowed(stored, dtype)
        if not error <= allowed:  # NaN is wrong too
            wrong[name] = f'off by {error:.3g}, allowed {allowed:.3g}'
    return wrong
