"""PCD's training-only modules after the student's map: projector, predictor and attention over the pixels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.utils.validate import check_count, check_option

HEAD: dict[str, Any] = {'type': 'linear', 'hidden': None, 'bias': None, 'layers': 2}
_MANY_TOKENS = 4096
_WIDE = 4096  # hidden channels of the published heads


class ProjectionHead(nn.Sequential):
    """1x1 convolutions with batch norm and ReLU between them; the children ``0, 1, 3`` are conv, norm, conv.

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
    """Return the projector and, if the head has one, the predictor.

    Args:
        options: ``type`` (``'linear'``, ``'mlp'``, ``'mlp2'``), ``hidden``, ``bias``, ``layers``; a ``hidden`` or
            ``bias`` of ``None`` is that of the teacher's layout or, without a layout, 4096 and no bias.
        channels: Channels of the student's map.
        out: Channels of the teacher's map.
        layout: Name of the layout of the teacher's file, if it is an ``SSLTeacher``.
    """
    kind, hidden, bias = (options[name] for name in ('type', 'hidden', 'bias'))
    if kind == 'linear':
        return {'projector': nn.Conv2d(channels, out, 1, bias=bias is not False)}
    if layout is not None:
        from mmdistill_dense.weights.ssl_layouts import LAYOUTS  # loaded only where it is used

        known = LAYOUTS.get(layout)
        hidden = hidden or getattr(known, 'hidden', None)
        bias = getattr(known, 'bias', None) if bias is None else bias
    shape: dict[str, Any] = {'hidden': hidden or _WIDE, 'out': out, 'bias': bias or False, 'layers': options['layers']}
    head: dict[str, nn.Module] = {'projector': ProjectionHead(channels, **shape)}
    return head | {'predictor': ProjectionHead(out, **shape)} if kind == 'mlp2' else head


class PixelAttention(nn.Module):
    """Multi-head self-attention over the pixels of a map, added to it with a learned factor that starts at 0.

    ``y = x + gamma * out(attention(qkv(norm(x))))``: the identity, bit for bit, until ``gamma`` is learned. ``gamma``
    is a vector because LARS would hardly move a zero matrix: its step grows with the norm, except for vectors.

    Args:
        channels: Channels of the map.
        num_heads: Number of heads, a divisor of the channels.

    Raises:
        ValueError: For another number of heads; lists the divisors.
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
                f'PCD computes attention over {height} x {width} = {height * width} pixels; time grows with the square '
                'of their number: set attention=None or tap a smaller map.',
                stacklevel=2,
            )
        tokens = self.norm(x.flatten(2).mT)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v)  # (B, heads, tokens, C / heads)
        read = self.gamma * self.out(read.transpose(1, 2).flatten(2))
        return x + read.mT.reshape(batch, channels, height, width).to(x.dtype)


def check_head(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the head, completed by their defaults.

    Raises:
        ValueError: For an unknown option, a value out of range, or one that the type of head does not have.
    """
    checked = check_keys('head', head, HEAD)
    check_option('head.type', checked['type'], ('linear', 'mlp', 'mlp2'))
    linear = checked['type'] == 'linear'
    check_option('head.bias', checked['bias'], (None, True, False) if linear else (None, True, False, 'hidden'))
    for name in ('hidden', 'layers'):
        if linear and checked[name] != HEAD[name]:
            raise ValueError(f"head.{name} needs type='mlp' or 'mlp2', got {name}={checked[name]} with 'linear'.")
        if checked[name] is not None:
            check_count(f'head.{name}', checked[name], 1)
    return checked


def check_keys(name: str, options: Mapping[str, Any], allowed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, completed by the defaults ``allowed``.

    Raises:
        ValueError: For a key that ``allowed`` does not have.
    """
    if extra := sorted(set(options) - set(allowed)):
        raise ValueError(f'{name} has no {", ".join(extra)}; its keys are {", ".join(allowed)}.')
    return {**allowed, **options}
