"""What the tests of faults share: a full disk, a loss that is no number, what a checkpoint holds, the log."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense.distillers import FeatureDistiller
from mmdistill_dense.registry import DISTILLERS
from tests import toys


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file of this process grows beyond ``free`` bytes: writing on fails as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def content(path: Path) -> dict[str, Tensor]:
    """Everything in a checkpoint that training goes on from."""
    checkpoint = torch.load(path, weights_only=False)
    parts = ('state_dict', 'ema_state_dict', 'distillers')
    tensors = {f'{part}.{n}': v for part in parts for n, v in checkpoint.get(part, {}).items()}
    for index, state in checkpoint['optimizer']['state'].items():
        tensors |= {f'optimizer.{index}.{name}': value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors


def whole(path: Path) -> dict[str, Tensor]:
    """The student of a checkpoint, which must be readable and finite."""
    state = torch.load(path, weights_only=False)['state_dict']
    assert all(value.isfinite().all() for value in state.values())
    return state


def resumed_alike(
    folder: Path, run: Callable[..., Any], start: str = 'iter_2', end: str = 'iter_4', whole: Path | None = None
) -> tuple[Any, dict[str, Any]]:
    """Train whole in ``a`` (or take the folder ``whole``), and in ``b`` from its middle: the last files are equal."""
    if whole is None:
        run(whole := folder / 'a')
    actual = run(folder / 'b', resume=True, load_from=str(whole / f'{start}.pth'))
    early, first, second = (content(path / f'{name}.pth') for path, name in (
        (whole, start), (whole, end), (folder / 'b', end)
    ))  # fmt: skip
    assert not toys.differing(first, second) and toys.differing(early, first)
    assert 'may not end as' not in log_of(folder / 'b')
    return actual, torch.load(folder / f'b/{end}.pth', weights_only=False)


def log_of(folder: Path) -> str:
    return '\n'.join(path.read_text() for path in sorted(folder.rglob('*.log')))


@DISTILLERS.register_module()
class Sick(FeatureDistiller):
    """A term that is no number, or has a gradient that is none, in the iterations named; it keeps a running mean.

    ``rank`` is the only process where that is so; ``part=True`` says that it is so for pictures without labels alone.
    """

    def __init__(self, at=(), value=float('nan'), gradient_at=(), rank=None, part=None, **kwargs):
        super().__init__('backbone[3]', align='conv', **kwargs)
        self.at, self.value, self.gradient_at, self.where = at, value, gradient_at, (rank, part)
        self.register_buffer('mean', torch.zeros(()))

    def loss(self, student, teacher, level):
        loss, state = (student - teacher).square().mean(), self.state
        if all(wanted in (None, here) for wanted, here in zip(self.where, (state.rank, bool(state.part)), strict=True)):
            if state.iteration in self.at:
                loss = loss * self.value
            if state.iteration in self.gradient_at:
                loss = loss + (0 * student).sum().abs().sqrt()  # 0, with a slope of 0 / 0
        self.mean.mul_(0.9).add_(loss.detach())
        return {'loss_sick': loss}
