"""CIRKD's queues of teacher vectors by class, the student's projector, and the choice of pixels and regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.losses import loss_dtype, to_device
from mmdistill_dense.utils.distributed import gather_numbers, gather_rows


class ClassQueue(nn.Module):
    """The last ``size`` unit rows of each class from all processes, in float32; equal on every process.

    Buffers: ``rows`` (classes, size, C), random directions until they are written, the same on every process and in
    every run; ``ptr`` (classes,), the next row to write.

    Args:
        classes: Number of classes.
        size: Rows of a class.
        channels: C.
    """

    rows: Tensor
    ptr: Tensor

    def __init__(self, classes: int, size: int, channels: int) -> None:
        super().__init__()
        rows = torch.zeros(classes, size, channels).normal_(generator=torch.Generator().manual_seed(0))
        self.register_buffer('rows', rows.div_(torch.linalg.vector_norm(rows, dim=2, keepdim=True)))
        self.register_buffer('ptr', torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, labels: Tensor) -> None:
        """Write the keys of all processes into the rings of their classes, in order of rank.

        The number of keys may differ between processes. If a class has more keys than ``size``, the last are written.

        Args:
            keys: (n, C) unit rows.
            labels: (n,) class of each, on the CPU.
        """
        keys, labels = gather_rows(keys.to(self.rows)), gather_numbers(labels, self.ptr)
        classes, size = self.rows.shape[:2]
        labels, order = labels.sort(stable=True)
        number, counts = place_in_class(labels, classes)
        kept = number >= counts[labels] - size
        order, labels, number = to_device(torch.stack((order, labels, number))[:, kept], keys)
        place = (self.ptr[labels] + number) % size
        self.rows.view(-1, keys.shape[1]).index_copy_(0, labels * size + place, keys[order])
        self.ptr.add_(to_device(counts, keys)).remainder_(size)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return ``count`` random rows of each class, (classes * count, C), at the same places in all queues."""
        places = torch.randperm(self.rows.shape[1], generator=generator)[:count]
        return self.rows[:, to_device(places, self.rows)].flatten(0, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ClassQueue:
        rows = self.rows
        super()._apply(fn, recurse)
        if self.rows.dtype != loss_dtype(self.rows):  # keys stay in float32 in a half-precision model
            self.rows = rows.to(self.rows.device)
        return self


class ClassMemory(nn.Module):
    """The queues of a level, and the projector from the student's channels to the teacher's.

    The projector is a 1x1 convolution, synchronised batch norm, ReLU and a 1x1 convolution, without biases.

    Args:
        channels: Of the student's map.
        out: Of the teacher's map and the queues.
        classes: Number of classes.
        sizes: Rows of a class by kind of queue.
    """

    def __init__(self, channels: int, out: int, classes: int, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.projector = nn.Sequential(
            nn.Conv2d(channels, out, 1, bias=False),
            nn.SyncBatchNorm(out),  # on the CPU, DistillDDP makes it a BatchNorm2d
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 1, bias=False),
        )
        self.queues = nn.ModuleDict({kind: ClassQueue(classes, size, out) for kind, size in sizes.items()})

    def queue(self, kind: str) -> ClassQueue:
        """Return the queue of a kind."""
        queue = self.queues[kind]
        assert isinstance(queue, ClassQueue)
        return queue


def place_in_class(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Number the members of each class.

    Args:
        labels: (n,) sorted, on the CPU.
        classes: Number of classes.

    Returns:
        (n,) the position of each label among those of its class, and (classes,) the number of members.
    """
    counts = torch.bincount(labels, minlength=classes)
    first = counts.cumsum(0) - counts
    return torch.arange(len(labels), device=labels.device) - first[labels], counts


def choose_pixels(labels: Tensor, classes: int, count: int, generator: torch.Generator) -> Tensor:
    """Return the flat indices of at most ``count`` random pixels of each class of one picture, sorted by class.

    Args:
        labels: (H * W,) on the CPU; labels that are no class, such as 255, are left out.
        classes: Number of classes.
        count: Most pixels of a class.
        generator: Generator on the CPU.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    shuffled = shuffled[is_class(labels[shuffled], classes)]
    chosen = shuffled[labels[shuffled].argsort(stable=True)]
    number, _ = place_in_class(labels[chosen], classes)
    return chosen[number < count]


def region_means(rows: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the normalised mean row of each class in one picture, (n, C), and these classes, (n,).

    Args:
        rows: (H * W, C).
        labels: (H * W,) on the CPU, as the returned classes; labels that are no class, such as 255, are left out.
        classes: Number of classes.
    """
    kept = is_class(labels, classes).nonzero()[:, 0]
    labels = labels[kept]
    sums = rows.new_zeros(classes, rows.shape[1]).index_add_(0, to_device(labels, rows), rows[to_device(kept, rows)])
    present = labels.unique()
    return F.normalize(sums[to_device(present, rows)], dim=1), present


def is_class(labels: Tensor, classes: int) -> Tensor:
    """Return which labels are a class; others are ignored."""
    return (labels >= 0) & (labels < classes)
