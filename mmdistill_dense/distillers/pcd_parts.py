"""What PCD is made of besides its loss: heads and attention of the student, the queue of negatives, a running mean."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.distillers.base import check_option
from mmdistill_dense.distillers.ranks import gather_rows, mean_over_ranks
from mmdistill_dense.losses import centres_inside, loss_dtype

MIN_COUNT = 1e-6  # less than the mean, over any number of processes, of a count that is 1 in one of them
HEAD: dict[str, Any] = {'type': 'linear', 'hidden': None, 'bias': None, 'layers': 2}
_MANY_TOKENS = 4096
_WIDE = 4096  # hidden channels of the published heads


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
    """

    maps: Sequence[Tensor]
    heads: list[Tensor]
    own: Tensor
    mask: Tensor | None
    valid: Tensor | None
    rows: list[tuple[Tensor, Tensor, Tensor]]

    def pooled(self) -> Tensor:
        """Return the student's mean output of each picture of the first view, without gradient."""
        return masked_mean(self.heads[0].detach().to(self.own.dtype), self.valid)

    def key(self) -> Tensor:
        """Return the teacher's mean vector of each picture of the first view."""
        return masked_mean(self.own, self.mask)


class ProjectionHead(nn.Sequential):
    """1x1 convolutions with batch norm and ReLU between them, nothing behind the last: ``0, 1, 3`` are conv, norm,
    conv.

    Args:
        channels: Of the input.
        hidden: Of the layers before the last.
        out: Of the output.
        bias: ``True``, ``False``, or ``'hidden'``: on all convolutions but the last.
        layers: Number of convolutions.
    """

    def __init__(self, channels: int, hidden: int, out: int, *, bias: bool | str = False, layers: int = 2) -> None:
        parts: list[nn.Module] = []
        for _ in range(layers - 1):
            parts += [nn.Conv2d(channels, hidden, 1, bias=bool(bias)), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)]
            channels = hidden
        super().__init__(*parts, nn.Conv2d(channels, out, 1, bias=bias is True))


def build_head(options: Mapping[str, Any], channels: int, out: int, layout: str | None) -> dict[str, nn.Module]:
    """Return projector and predictor, those that the head has.

    Args:
        options: ``type`` (``'linear'``, ``'mlp'``, ``'mlp2'``), ``hidden``, ``bias``, ``layers``; where hidden and bias
            are ``None`` they are those of the teacher's layout, without one 4096 and no bias.
        channels: Of the student's map.
        out: Of the teacher's.
        layout: Name of the layout of the teacher's file, where it is an ``SSLTeacher``.
    """
    kind, hidden, bias = (options[name] for name in ('type', 'hidden', 'bias'))
    if kind == 'linear':
        return {'projector': nn.Conv2d(channels, out, 1, bias=bias is not False)}
    if layout is not None:
        from mmdistill_dense.pretrain.checkpoint_layouts import LAYOUTS  # pre-training is loaded where it is used

        known = LAYOUTS.get(layout)
        hidden = hidden or getattr(known, 'hidden', None)
        bias = getattr(known, 'bias', None) if bias is None else bias
    shape: dict[str, Any] = {'hidden': hidden or _WIDE, 'out': out, 'bias': bias or False, 'layers': options['layers']}
    head: dict[str, nn.Module] = {'projector': ProjectionHead(channels, **shape)}
    return head | {'predictor': ProjectionHead(out, **shape)} if kind == 'mlp2' else head


class PixelAttention(nn.Module):
    """Multi-head self-attention over the pixels of a map, added to it behind a vector that starts at 0.

    ``y = x + gamma * out(attention(qkv(norm(x))))``: the identity, bit for bit, until ``gamma`` is learned. A zero
    matrix in its place would hardly move under LARS, whose step grows with the norm of a matrix; vectors are exempt.

    Args:
        channels: Of the map.
        num_heads: Must divide the channels.

    Raises:
        ValueError: When it does not; names the numbers that do.
    """

    def __init__(self, channels: int, num_heads: int = 8) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            divisors = [n for n in range(1, min(channels, 64) + 1) if channels % n == 0]
            raise ValueError(
                f'attention.num_heads={num_heads} does not divide the {channels} channels of the tapped map; '
                f'choose one of {divisors}.'
            )
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the shape of ``x`` (B, C, H, W)."""
        batch, channels, height, width = x.shape
        if height * width > _MANY_TOKENS:
            warnings.warn(
                f'PCD attends over {height} x {width} = {height * width} pixels; time grows with the square of their '
                'number: set attention=None or tap a smaller map.',
                stacklevel=2,
            )
        tokens = self.norm(x.flatten(2).mT)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v)  # (B, heads, tokens, C / heads)
        read = self.gamma * self.out(read.transpose(1, 2).flatten(2))
        return x + read.mT.reshape(batch, channels, height, width).to(x.dtype)


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

    def negatives(self) -> Tensor:
        """Return the rows that count."""
        return self.rows[: int(self.filled)]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Write the (n, C) unit keys of every process, in order of rank, from ``ptr`` on and around the end.

        The number of keys may differ between processes. Of more keys than K the last K are written.
        """
        keys = gather_rows(keys.to(self.rows))[-len(self.rows) :]
        place = (self.ptr + torch.arange(len(keys), device=self.ptr.device)) % len(self.rows)
        self.rows.index_copy_(0, place, keys)
        self.ptr.add_(len(keys)).remainder_(len(self.rows))
        self.filled.add_(len(keys)).clamp_(max=len(self.rows))

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
        pixels = centred.movedim(1, -1)  # (B, H, W, C)
        pixels = pixels.flatten(0, 2) if valid is None else pixels[valid]
        sums = mean_over_ranks(torch.cat([pixels.sum(0), pixels.new_tensor([len(pixels)])]))
        self.mean.add_(self.momentum * (sums[:-1] / sums[-1].clamp_min(MIN_COUNT)).to(self.mean))


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean (B, C) of a map over its valid pixels, 0 where there is none."""
    if valid is None:
        return x.mean((2, 3))
    weight = valid[:, None].to(x.dtype)
    return (x * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1)


def random_pixels(x: Tensor, valid: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` random valid pixels of each image of a map, with replacement: (images * count, C).

    Images without a valid pixel are left out.
    """
    share = torch.ones(len(x), x[0, 0].numel()) if valid is None else valid.flatten(1).float().cpu()
    images = share.any(1).nonzero()[:, 0]
    drawn = torch.multinomial(share[images], count, replacement=True, generator=generator)
    return x.flatten(2)[images[:, None].to(x.device), :, drawn.to(x.device)].flatten(0, 1)


def take_pixels(x: Tensor, chosen: Tensor | None) -> Tensor:
    """Return the pixels of flat indices ``chosen`` (all for ``None``): of (B, C, H, W) a (B, C, n, 1), of (B, H, W) a
    (B, n, 1)."""
    return x if chosen is None else x.flatten(-2)[..., chosen.to(x.device), None]


def inside_images(data_samples: Any, x: Tensor) -> Tensor | None:
    """Return the (B, H, W) mask of a map's pixels inside the images of a padded batch; ``None`` is all of them.

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
    return centres_inside(images, batch, x.shape[2:]).to(x.device)


def check_count(name: str, value: Any, least: int) -> None:
    """Raise a ``ValueError`` that names the option unless it is a whole number, not below ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f'{name} must be a whole number >= {least}, got {value!r}.')


def check_head(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the head over their defaults.

    Raises:
        ValueError: For an unknown option, a value out of range, or one that the type of head does not have.
    """
    checked = check_keys('head', head, HEAD)
    check_option('head.type', checked['type'], ('linear', 'mlp', 'mlp2'))
    linear = checked['type'] == 'linear'
    check_option('head.bias', checked['bias'], (None, True, False) if linear else (None, True, False, 'hidden'))
    for name in ('hidden', 'layers'):
        if linear and checked[name] != HEAD[name]:
            raise ValueError(f"head.{name} belongs to the types 'mlp' and 'mlp2', got {checked[name]} with 'linear'.")
        if checked[name] is not None:
            check_count(f'head.{name}', checked[name], 1)
    return checked


def check_keys(name: str, options: Mapping[str, Any], allowed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options over their defaults.

    Raises:
        ValueError: For a key that ``allowed`` does not have.
    """
    if extra := sorted(set(options) - set(allowed)):
        raise ValueError(f'{name} has no {", ".join(extra)}; its keys are {", ".join(allowed)}.')
    return {**allowed, **options}
