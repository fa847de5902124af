"""PCD's queue of negatives, its length, and a running mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.losses import loss_dtype
from mmdistill_dense.utils.distributed import MIN_COUNT, gather_rows, mean_over_ranks
from mmdistill_dense.utils.validate import check_count


class ExactBuffers(nn.Module):
    """Buffers that stay in float32 in a half-precision model; numbers kept beside them are read again after loading."""

    def forget_numbers(self) -> None:
        """Read the numbers from the buffers again, which somebody has changed."""

    def _load_from_state_dict(self, *args: Any) -> None:
        self.forget_numbers()
        super()._load_from_state_dict(*args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExactBuffers:
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, now in list(self.named_buffers(recurse=False)):
            if now.dtype != loss_dtype(now):
                self._buffers[name] = exact[name].to(now.device)
        return self


class NegativeQueue(ExactBuffers):
    """The last K keys of all processes, as unit rows in float32; equal on every process.

    Buffers: ``rows`` (K, C), ``ptr`` (1,) the next row to write, ``filled`` (1,) how many rows count. With
    ``init='empty'`` these are the written ones; with ``'random'`` all, at first random directions, the same on every
    process and in every run; with ``'zeros'`` all, at first zeros.
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
        self.register_buffer('filled', torch.tensor([0 if init == 'empty' else size]))
        self.size = size  # rows in use
        self._count: int | None = None  # filled, as a number; None until it is read

    @torch.no_grad()
    def limit(self, size: int) -> None:
        """Use the first ``size`` rows alone, at most K; of a queue that holds more, the further rows are lost."""
        self.size = size
        self.filled.clamp_(max=size)
        self.ptr.remainder_(size)
        self._count = None

    def negatives(self) -> Tensor:
        """Return the rows that count."""
        if self._count is None:
            self._count = int(self.filled)  # waits for the device
        return self.rows[: self._count]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Write the (n, C) unit keys of all processes into the ring, in order of rank.

        The number of keys may differ between processes. Rows of zeros are left out. Of more than K keys, the last K are
        written.
        """
        keys = gather_rows(keys.to(self.rows))
        # Reading the number of keys would wait for the device. So the rows to leave out are sorted first, to the places
        # before ptr, and are replaced by the rows that are there.
        written = keys.ne(0).any(1)
        order = written.byte().argsort(stable=True)[-self.size :]
        keys, written = keys[order], written[order]
        number = written.sum()
        place = (self.ptr + number + torch.arange(-len(keys), 0, device=self.ptr.device)) % self.size
        self.rows.index_copy_(0, place, torch.where(written[:, None], keys, self.rows[place]))
        self.ptr.add_(number).remainder_(self.size)
        self.filled.add_(number).clamp_(max=self.size)
        if self._count != self.size:  # a full queue stays full
            self._count = None

    def forget_numbers(self) -> None:
        self._count = None


class ChannelCenter(nn.Module):
    """Subtracts a running mean per channel from a map."""

    momentum = 0.01  # share of the new mean at each update
    mean: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean.to(x.dtype)[:, None, None]

    @torch.no_grad()
    def update(self, centred: Tensor, valid: Tensor | None) -> None:
        """Move the mean towards that of a map from :meth:`forward`, over the valid pixels of all processes."""
        pixels = centred.movedim(1, -1).flatten(0, 2)  # (B H W, C)
        weight = pixels.new_ones(len(pixels), 1) if valid is None else valid.reshape(-1, 1).to(pixels.dtype)
        sums = mean_over_ranks(torch.cat([(weight * pixels).sum(0), weight.sum(0)]))
        self.mean.add_(self.momentum * (sums[:-1] / sums[-1].clamp_min(MIN_COUNT)).to(self.mean))


AUTO = 'auto'
ROWS = 1024  # memory of each queue with 'auto'
FEWEST_KEYS, MOST_KEYS = 4, 64  # of a picture
LEAST_PICTURES = 4
LEAST_TRAINING = 3 * LEAST_PICTURES
STEPS = 4  # the queue holds the keys of at most so many steps


def check_queue_size(size: int | str, keys_per_image: int) -> int:
    """Return the rows of memory that the options ask for."""
    if isinstance(size, str) and size != AUTO:
        raise ValueError(f"queue_size must be a whole number >= 1 or 'auto', got {size!r}.")
    if size != AUTO:
        check_count('queue_size', size, 1)
        return int(size)
    if keys_per_image != 1:
        raise ValueError(
            f"queue_size='auto' chooses keys_per_image too, but keys_per_image={keys_per_image} is given: leave it out "
            'or name queue_size as well.'
        )
    return ROWS


def choose_size(images: int, per_step: int, key: str) -> tuple[int, int]:
    """Return the rows of a queue and the keys that each picture adds to it.

    The queue holds the keys of a third of the pictures, or of four steps if that is less, so that a picture's own keys
    are gone when it comes again::

        pictures = min(images // 3, 4 * per_step)
        keys     = 1024 // pictures, at least 4 and at most 64
        rows     = min(1024, keys * pictures)
    """
    if images < LEAST_TRAINING:
        raise ValueError(
            f"{key}.queue_size='auto' needs {LEAST_TRAINING} training pictures or more, found {images}. The queue "
            'may hold the keys of a third of the pictures, and these would be too few negatives. Use another method, '
            "e.g. type='CWD', or more pictures."
        )
    pictures = min(images // 3, STEPS * per_step)
    keys = min(max(ROWS // pictures, FEWEST_KEYS), MOST_KEYS)
    return min(ROWS, keys * pictures), keys


def note_of_rise(filled: int, size: int, key: str) -> str:
    """Return how the loss moves while the queue fills, an empty string for a full one."""
    if filled >= size:
        return ''
    return (
        f'{key}: the queue holds {filled} of {size} keys; loss_pcd '
        f'{"goes on rising" if filled else "starts near 0 and rises"} with the logarithm of their number until the '
        'queue is full, and falls after that.'
    )


def warning(size: int, images: int, keys: int, key: str) -> str:
    """Return a warning for a queue that holds the keys of more than half of the pictures, else an empty string."""
    if size <= keys * images / 2:
        return ''
    return (
        f'{key}.queue_size={size} is large for {images} training pictures with '
        f"{keys} keys each: a picture's own keys are still negatives when it comes again. Use at most about "
        f"a third of all keys, {max(keys * images // 3, 1)}, or queue_size='auto'."
    )
