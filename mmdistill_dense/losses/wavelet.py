"""Wavelets of maps (FreeKD): the Haar transform and its inverse, masks of its bands, and their masked difference.

One step takes each 2x2 cell ``a b / c d`` of a map, with zeros below and to the right where a size is odd, to one low
band and three of details::

    low = (a+b+c+d)/2   LH = (a+b-c-d)/2   HL = (a-b+c-d)/2   HH = (a-b-c+d)/2

The next step takes the low band. The transform is linear and orthonormal, so its inverse is also its gradient.

Source: Zhang et al., FreeKD, CVPR 2024, https://arxiv.org/abs/2311.12079, as released.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdistill_dense.losses.masked import token_masks
from mmdistill_dense.losses.tensors import (
    block_elements,
    cast_pair,
    loss_dtype,
    sum_dtype,
    tiles,
    without_autocast,
)

Bands = Literal['high', 'all']


def haar(x: Tensor, steps: int = 3) -> tuple[Tensor, list[Tensor]]:
    """Return the last low band (N, C, h, w) of a map (N, C, H, W) and the details (N, C, 3, h_j, w_j) of each step, the
    finest first; ``h_j`` is H / 2^j rounded up.
    """
    return _bands(x, x.new_zeros(()), steps)


def _bands(x: Tensor, offset: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
    """Return the bands of ``x + offset``: an offset of each map (N, C, 1, 1) is in no detail but of padded cells."""
    details = []
    for _ in range(steps):
        a, b, c, d = _cells(x, offset)
        details.append(torch.stack((a + b - c - d, a - b + c - d, a - b - c + d), 2) / 2)
        x, offset = (a + b + c + d) / 2, 2 * offset
    return x + offset, details


def inverse(low: Tensor, details: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Return the map (N, C, *size) of which :func:`haar` gives these bands; what padding added is cut off."""
    sizes = [size, *(detail.shape[3:] for detail in details[:-1])]
    for detail, (height, width) in zip(reversed(details), reversed(sizes), strict=True):
        lh, hl, hh = detail.unbind(2)
        top, bottom, left, right = low + lh, low - lh, hl + hh, hl - hh
        rows = [torch.stack((part + side, part - side), -1) for part, side in ((top, left), (bottom, right))]
        low = (torch.stack(rows, -3) / 2).flatten(-2).flatten(-3, -2)[..., :height, :width]  # (N, C, 2*h, 2*w)
    return low


def _cells(x: Tensor, offset: Tensor) -> list[Tensor]:
    height, width = x.shape[2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2))
        x[..., height:, :] = x[..., width:] = -offset  # zeros of x + offset
    return [x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]


def frequency_masks(tokens: Tensor, x: Tensor) -> list[Tensor]:
    """Masks of the bands of a map: ``sigmoid(E_0 . low)`` of the last low band, ``sigmoid(E_j . (LH + HL + HH)_j)``.

    Args:
        tokens: (steps + 1, T, C).
        x: (N, C, H, W) map.

    Returns:
        (N, T, h_j, w_j) for the last low band and steps 1, 2 ...; in float32 (float64 for a float64 map),
        differentiable in both arguments.
    """
    x = x.to(loss_dtype(x))
    offset = _offset(x)
    x = x - offset
    masks = []
    for step in tokens[1:]:
        a, b, c, d = _cells(x, offset)
        x, offset = (a + b + c + d) / 2, 2 * offset
        masks.append(token_masks(step, 2 * a - x))  # LH + HL + HH, without making them
    return [token_masks(tokens[0], x + offset), *masks]


@without_autocast
def frequency_gate(x: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Return the map whose bands are those of ``x`` (N, C, H, W) times the sum of their masks, in ``x``'s dtype: what a
    teacher's head gets while its tokens are learned.
    """
    low, details = haar(x.to(loss_dtype(x)), len(masks) - 1)
    low_sum, *sums = (mask.sum(1, keepdim=True) for mask in masks)
    masked = [detail * total[:, :, None] for detail, total in zip(details, sums, strict=True)]
    return inverse(low * low_sum, masked, x.shape[2:]).to(x.dtype)


@without_autocast
def frequency_terms(student: Tensor, teacher: Tensor, tokens: Tensor, bands: Bands = 'high') -> Tensor:
    """Masked absolute difference of two maps' bands, ``mean_n,t,c,k,p m_j |D_j(student) - D_j(teacher)|``: the terms of
    one level of FreeKD, whose sum is its loss.

    The masks are the teacher's and do not depend on the channel, so their sum over tokens weighs the sum over channels,
    and one transform of the difference serves both maps.

    Args:
        student, teacher: (N, C, H, W) maps, the student's after the align.
        tokens: (steps + 1, T, C).
        bands: ``'high'``: the details of each step; ``'all'``: then also the last low band.

    Returns:
        (steps,) or (steps + 1,).
    """
    student, teacher = cast_pair(student, teacher)
    if not student.numel():
        return student.sum().expand(len(tokens) - (bands == 'high'))
    with torch.no_grad():
        low, *masks = frequency_masks(tokens, teacher)
        weights = [mask.sum(1) / (3 * student.shape[1] * mask.numel()) for mask in masks]
        if bands == 'all':
            weights.append(low.sum(1) / (student.shape[1] * low.numel()))
    return _WeightedBands.apply(student, teacher, len(masks), *weights)


class _WeightedBands(torch.autograd.Function):
    """``sum W_j |D_j(s - t)|`` of each band; the bands are computed block by block in both passes, not stored."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, steps: int, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(student, teacher, *weights)
        ctx.steps = steps
        totals = student.new_zeros(len(weights), dtype=sum_dtype(student))
        ctx.blocks = tiles(len(student), student.shape[1], student.shape[2:].numel(), block_elements(student.device))
        for pictures, channels in ctx.blocks:
            low, details = _difference(student[pictures, channels], teacher[pictures, channels], steps)
            sizes = [*(detail.abs().sum((1, 2)) for detail in details), low.abs().sum(1)]
            for index, (size, weight) in enumerate(zip(sizes, weights, strict=False)):
                totals[index] += (size * weight[pictures]).sum()
        return totals.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, *weights = ctx.saved_tensors
        scales = [weight[:, None] * scale for weight, scale in zip(weights, grad_output, strict=True)]
        grad = torch.empty_like(student)
        for pictures, channels in ctx.blocks:
            low, details = _difference(student[pictures, channels], teacher[pictures, channels], ctx.steps)
            signs = [detail.sign() * weight[pictures, :, None] for detail, weight in zip(details, scales, strict=False)]
            last = low.sign() * scales[-1][pictures] if len(scales) > ctx.steps else torch.zeros_like(low)
            grad[pictures, channels] = inverse(last, signs, student.shape[2:])
        return grad, *([None] * (2 + len(weights)))


def _difference(student: Tensor, teacher: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
    """Return the bands of ``student - teacher``, to the digits of each map around its own mean."""
    student_mean, teacher_mean = _offset(student), _offset(teacher)
    return _bands((student - student_mean).sub_(teacher - teacher_mean), student_mean - teacher_mean, steps)


def _offset(x: Tensor) -> Tensor:
    return x.detach().mean((2, 3), keepdim=True)
