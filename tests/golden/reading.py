"""What the golden kinds read their files with."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmdistill_dense.distillers.base import Distiller

Results = dict[str, Tensor]


class File(Mapping[str, np.ndarray]):
    """The arrays of a file by name, and what they are as tensors of one dtype and as options."""

    def __init__(self, arrays: Mapping[str, np.ndarray], dtype: torch.dtype) -> None:
        self.arrays, self.dtype = arrays, dtype

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self[name]).to(self.dtype)

    def leaf(self, name: str) -> Tensor:
        return self.tensor(name).requires_grad_()

    def levels(self, name: str) -> list[Tensor]:
        return [self.tensor(f'level{n}_{name}') for n in range(int(self['num_levels']))]

    def leaves(self, name: str) -> list[Tensor]:
        return [level.requires_grad_() for level in self.levels(name)]

    def numbers(self, names: str) -> dict[str, float]:
        """Options of these names."""
        return {name: float(self[name]) for name in names.split()}

    def below(self, prefix: str) -> 'File':
        """The arrays whose names begin with a prefix, without it."""
        return File({n.removeprefix(prefix): x for n, x in self.items() if n.startswith(prefix)}, self.dtype)

    def state(self) -> Results:
        """The arrays as the state of a module, in their own dtypes."""
        return {name: torch.from_numpy(array) for name, array in self.items()}


def numbered(name: str, values: Any, first: int = 0) -> Results:
    return {f'{name}{number}': value for number, value in enumerate(values, first)}


def with_gradients(loss: Tensor, **leaves: Tensor) -> Results:
    """The loss, and its gradients as the file names them."""
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return {'loss': loss} | {f'grad_{name}': grad for name, grad in zip(leaves, grads, strict=True)}


def set_up(distiller: Any, students: list[Tensor], teachers: list[Tensor], tap: str = 'tap') -> Any:
    """The distiller of one tap, ready for such maps."""
    distiller.setup(*({tap: [level[:1].shape for level in maps]} for maps in (students, teachers)))
    return distiller.to(students[0].dtype)


def losses_of(distiller: Distiller, students: list[Tensor], teachers: list[Tensor]) -> Results:
    return distiller({'tap': students}, {'tap': teachers}, None)


def load(module: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Load what the file stores of a module; its other state stays."""
    missing, unexpected = module.load_state_dict(stored, strict=False)
    assert not unexpected and not [name for name in missing if 'weight' in name], (missing, unexpected)
