"""What the golden kinds read their files with."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Arrays = Mapping[str, np.ndarray]


def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(array).to(dtype)


def leaf(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    return tensor(array, dtype).requires_grad_()


def below(arrays: Mapping, prefix: str) -> dict:
    """The entries whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
