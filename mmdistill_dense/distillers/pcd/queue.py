"""What PCD compares with and by: the queue of negatives, a running mean, chosen and valid pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.losses import centres_inside, loss_dtype, to_device
from mmdistill_dense.utils.distributed import gather_rows, mean_over_ranks

MIN_COUNT = 1e-6  # less than the mean, over any number of processes, of a count that is 1 in one of them


@dataclass
class Compared:
    """What one level of a step compares.

    Attributes:
        maps: the student's map of each view, on the grid that is compared.
        heads: what attention, projector and predictor make of it, (B, C, h, w) or the chosen pixels.
        own: the teacher's map of the first view, on the student's grid.
        mask: (B, H, W), which pixels of a picture are no padding; ``None`` is all.
        valid: the same for the chosen pixels.
        rows: unit student rows, unit teacher rows and weights of each pair of views.
        inside: ``mask`` on the CPU, where pixels are drawn.
    """

    maps: Sequence[Tensor]
    heads: list[Tensor]
    own: Tensor
    mask: Tensor | None
    valid: Tensor | None
    rows: list[tuple[Tensor, Tensor, Tensor]]
    inside: Tensor | None = None

    def pooled(self) -> Tensor:
        """Return the student's mean output of each picture of the first view, without gradient."""
        return masked_mean(self.heads[0].detach().to(self.own.dtype), self.valid)

    def key(self) -> Tensor:
        """Return the teacher's mean vector of each picture of the first view."""
        return masked_mean(self.own, self.mask)


class NegativeQueue(nn.Module):
    """The last K keys of all processes, as unit rows in float32; equal on every process.

    Buffers: ``rows`` (K, C), ``ptr`` (1,) the next row to write, ``filled`` (1,) how many rows count.

    Args:
        size: K.
        channels: C.
        init: ``'empty'``: only rows written count; ``'random'``: all count, random directions at first, the same on
            every process and in every run.
    """

    rows: Tensor
    ptr: Tensor
    filled: Tensor

    def __init__(self, size: int, channels: int, init: str = 'empty') -> None:
        super().__init__()
        rows = torch.zeros(size, channels)
        if init == 'random':
            rows = F.normalize(rows.normal_(generator=torch.Generator().manual_seed(0)), dim=1)
        self.register_buffer('rows', rows)
        self.register_buffer('ptr', torch.zeros(1, dtype=torch.long))
        self.register_buffer('filled', torch.tensor([size if init == 'random' else 0]))
        self._count: int | None = None  # of the rows that count, as far as has been looked

    def negatives(self) -> Tensor:
        """Return the rows that count."""
        if self._count is None:
            self._count = int(self.filled)  # waits for the device
        return self.rows[: self._count]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Write the (n, C) unit keys of every process, in order of rank, from ``ptr`` on and around the end.

        The number of keys may differ between processes. Rows of zeros are left out. Of more keys than K the last K are
        written.
        """
        keys = gather_rows(keys.to(self.rows))
        # Without a look at how many there are, for which the device would have to finish: what is left out comes first,
        # at the places before ptr, and is overwritten by what stands there.
        written = keys.ne(0).any(1)
        order = written.byte().argsort(stable=True)[-len(self.rows) :]
        keys, written = keys[order], written[order]
        number = written.sum()
        place = (self.ptr + number + torch.arange(-len(keys), 0, device=self.ptr.device)) % len(self.rows)
        self.rows.index_copy_(0, place, torch.where(written[:, None], keys, self.rows[place]))
        self.ptr.add_(number).remainder_(len(self.rows))
        self.filled.add_(number).clamp_(max=len(self.rows))
        if self._count != len(self.rows):  # a full queue stays full
            self._count = None

    def _load_from_state_dict(self, *args: Any) -> None:
        self._count = None
        super()._load_from_state_dict(*args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NegativeQueue:
        rows = self.rows
        super()._apply(fn, recurse)
        if self.rows.dtype != loss_dtype(self.rows):  # half precision is not for keys
            self.rows = rows.to(self.rows.device)
        return self


class ChannelCenter(nn.Module):
    """Subtracts a running mean per channel from a map.

    Args:
        channels: Of the map.
        momentum: Share of the new mean at each update.
    """

    mean: Tensor

    def __init__(self, channels: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer('mean', torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) ``x`` without the mean."""
        return x - self.mean.to(x.dtype)[:, None, None]

    @torch.no_grad()
    def update(self, centred: Tensor, valid: Tensor | None) -> None:
        """Move the mean towards that of a map from :meth:`forward`, over the valid pixels of all processes."""
        pixels = centred.movedim(1, -1).flatten(0, 2)  # (B H W, C)
        weight = pixels.new_ones(len(pixels), 1) if valid is None else valid.reshape(-1, 1).to(pixels.dtype)
        sums = mean_over_ranks(torch.cat([(weight * pixels).sum(0), weight.sum(0)]))
        self.mean.add_(self.momentum * (sums[:-1] / sums[-1].clamp_min(MIN_COUNT)).to(self.mean))


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean (B, C) of a map over its valid pixels, 0 where there is none."""
    if valid is None:
        return x.mean((2, 3))
    weight = valid[:, None].to(x.dtype)
    return (x * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1)


def random_pixels(x: Tensor, valid: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` random valid pixels of each image of a map, with replacement: (images * count, C).

    Images without a valid pixel are left out. ``valid`` lies on the CPU, as the generator does.
    """
    share = torch.ones(len(x), x.shape[2:].numel()) if valid is None else valid.flatten(1).float()
    images = share.any(1).nonzero()[:, 0]
    drawn = torch.multinomial(share[images], count, replacement=True, generator=generator)
    return x.flatten(2)[to_device(images[:, None], x), :, to_device(drawn, x)].flatten(0, 1)


def take_pixels(x: Tensor, chosen: Tensor | None) -> Tensor:
    """Return the pixels of flat indices ``chosen`` (all for ``None``): of (B, C, H, W) a (B, C, n, 1), of (B, H, W) a
    (B, n, 1)."""
    return x if chosen is None else x.flatten(-2)[..., to_device(chosen, x), None]


def inside_images(data_samples: Any, x: Tensor) -> Tensor | None:
    """Return the (B, H, W) mask, on the CPU, of a map's pixels inside the images of a padded batch; ``None`` is all.

    Both mmseg and mmdet write an image's shape and the batch's into the data samples.
    """
    metas = [getattr(sample, 'metainfo', {}) for sample in data_samples] if isinstance(data_samples, list) else []
    images: list[Any] = [meta.get('img_shape') for meta in metas]
    padded: list[Any] = [meta.get('batch_input_shape', meta.get('pad_shape')) for meta in metas]  # of mmdet, of mmseg
    if not metas or None in images or None in padded:
        return None
    batch = tuple(max(shape[axis] for shape in padded) for axis in (0, 1))
    if all(tuple(image[:2]) == batch for image in images):
        return None
    return centres_inside(images, batch, x.shape[2:])
