"""Af-DCD's masks, and the first projector convolution folded with the align before it.

Source: Fan et al., Af-DCD, NeurIPS 2023, https://arxiv.org/abs/2312.04168.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdistill_dense.losses.tensors import to_device

_SCATTER_SHARE = 0.6  # of kept positions; above it one convolution over all of them is faster


def random_keep(shape: tuple[int, int, int], ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw a mask (B, 1, H, W), bool on the CPU, that drops each position of each image with probability ``ratio``."""
    b, h, w = shape
    return torch.rand(b, 1, h, w, generator=generator) <= 1 - ratio


def centre_keep(shape: tuple[int, int, int]) -> Tensor:
    """Return the fixed mask that drops the middle third of rows and columns (1/9 of the area): (B, 1, H, W) bool."""
    b, h, w = shape
    keep = torch.ones(b, 1, h, w, dtype=torch.bool)
    keep[:, :, h // 3 : 2 * h // 3, w // 3 : 2 * w // 3] = False
    return keep


def masked_align_conv(
    feat: Tensor, keep: Tensor, align_weight: Tensor, align_bias: Tensor, conv_weight: Tensor, conv_bias: Tensor
) -> Tensor:
    """``conv(keep * align(feat))`` with the 1x1 align folded into the convolution where that is less work.

    The mask is one value per position, so it commutes with the align: one convolution with weight ``conv_weight . [W |
    b]`` over the Cs masked channels and ``keep`` itself (which carries the masked bias) gives the same output and,
    through autograd of the product, the same gradients, without the two (B, Ct, H, W) maps between. Where a bool mask
    on the CPU keeps at most 0.6 of the positions, only those are multiplied (not under autocast).

    Args:
        feat: (B, Cs, H, W) student map.
        keep: (B, 1, H, W) mask, True (1) where kept; moved to the map's device.
        align_weight, align_bias: (Ct, Cs, 1, 1) and (Ct,).
        conv_weight, conv_bias: (Co, Ct, k, k), k odd, and (Co,); stride 1, zero padding k // 2.

    Returns:
        (B, Co, H, W).
    """
    b, _, h, w = feat.shape
    if keep.shape != (b, 1, h, w):
        raise ValueError(f'keep must be {(b, 1, h, w)} for a map of {tuple(feat.shape)}, got {tuple(keep.shape)}')
    # only a mask on the CPU can be read without waiting for the device
    index = keep.flatten().nonzero()[:, 0] if keep.dtype == torch.bool and keep.device.type == 'cpu' else None
    keep = to_device(keep, feat).to(feat.dtype)
    padding = conv_weight.shape[-1] // 2
    if not _folding_pays(b * h * w, align_weight, conv_weight):
        return F.conv2d(F.conv2d(feat, align_weight, align_bias) * keep, conv_weight, conv_bias, padding=padding)
    align = torch.cat([align_weight.flatten(1), align_bias[:, None]], 1)  # (Ct, Cs + 1)
    # as a 1x1 convolution over the weight read as Co images: no transposed copy of it
    folded = F.conv2d(conv_weight, align.t()[..., None, None])  # (Co, Cs + 1, k, k)
    if index is None or len(index) > _SCATTER_SHARE * keep.numel() or torch.is_autocast_enabled(feat.device.type):
        return F.conv2d(torch.cat([feat * keep, keep], 1), folded, conv_bias, padding=padding)
    index = to_device(index, feat)
    rows = feat.flatten(2).mT.reshape(b * h * w, -1).index_select(0, index)
    return _KeptConv.apply(F.pad(rows, (0, 1), value=1.0), folded, conv_bias, index, (b, h, w))


class _KeptConv(torch.autograd.Function):
    """Convolution of a map that is zero at most positions: one matrix product of the others per kernel element."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, index: Tensor, shape: tuple[int, int, int]
    ) -> Tensor:
        ctx.save_for_backward(rows, weight, index)
        ctx.shape = shape
        grid = _Padded(shape, weight.shape[2])
        out = bias.repeat(grid.positions, 1)  # as rows: a kernel element adds whole rows, each to another one
        for u, v, places in grid.taps(index):
            out.index_add_(0, places, rows @ weight[:, :, u, v].t().contiguous())
        return grid.to_map(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        rows, weight, index = ctx.saved_tensors
        grid = _Padded(ctx.shape, weight.shape[2])
        grads = grid.to_rows(grad_output)
        of_rows, of_weight = torch.zeros_like(rows), torch.empty_like(weight)
        for u, v, places in grid.taps(index):
            found = grads.index_select(0, places)  # (n, Co)
            of_rows.addmm_(found, weight[:, :, u, v].contiguous())
            of_weight[:, :, u, v] = found.t() @ rows
        return of_rows, of_weight, grad_output.sum((0, 2, 3)), None, None


class _Padded:
    """The positions of B maps, each padded by ``kernel // 2``, as rows of a matrix."""

    def __init__(self, shape: tuple[int, int, int], kernel: int) -> None:
        batch, height, width = shape
        self.kernel, self.border = kernel, kernel // 2
        self.inner = shape
        self.outer = batch, height + 2 * self.border, width + 2 * self.border
        self.positions = math.prod(self.outer)

    def taps(self, index: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Yield each kernel element (u, v) with the rows to which the positions ``index`` of the maps add."""
        _, height, width = self.inner
        image, place = index // (height * width), index % (height * width)
        row, column = place // width + 2 * self.border, place % width + 2 * self.border
        first = (image * self.outer[1] + row) * self.outer[2] + column
        for u, v in itertools.product(range(self.kernel), repeat=2):
            yield u, v, first - (u * self.outer[2] + v)

    def to_map(self, rows: Tensor) -> Tensor:
        """Return (positions, C) without the border as (B, C, H, W)."""
        batch, height, width = self.inner
        maps = rows.new_empty(batch, rows.shape[1], height, width)  # not a view, which could not be changed in place
        for source, target in zip(self._inside(rows), maps.flatten(2), strict=True):
            target.copy_(source.reshape(-1, rows.shape[1]).t())
        return maps

    def to_rows(self, maps: Tensor) -> Tensor:
        """Return (B, C, H, W) as (positions, C), zero in the border."""
        rows = maps.new_zeros(self.positions, maps.shape[1])
        for source, target in zip(maps, self._inside(rows), strict=True):
            target.copy_(source.flatten(1).t().contiguous().view(target.shape))
        return rows

    def _inside(self, rows: Tensor) -> Tensor:
        end = -self.border or None
        return rows.view(*self.outer, -1)[:, self.border : end, self.border : end]


def _folding_pays(positions: int, align_weight: Tensor, conv_weight: Tensor) -> bool:
    """Return whether folding saves multiply-adds: it costs a product of weights per call, too much for small maps."""
    ct, cs = align_weight.shape[:2]
    co, taps = conv_weight.shape[0], conv_weight[0, 0].numel()
    return taps * co * (cs + 1) * (positions + ct) < positions * ct * (cs + taps * co)
