"""Distances of two feature maps: mimicking, FeatureMatch, regressed values, correlation (PKD), attention (AT)."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdistill_dense.losses.infonce import normalize_pixels
from mmdistill_dense.losses.tensors import (
    block_elements,
    cast_pair,
    check_same_grid,
    loss_dtype,
    sum_dtype,
    tiles,
    without_autocast,
)


@without_autocast
def feature_mimic(student: Tensor, teacher: Tensor, *, reduction: str = 'sum') -> Tensor:
    """``sum (student - teacher)^2`` over all elements, divided by the batch or by their number.

    Source: FitNets, https://arxiv.org/abs/1412.6550, eq. 3; Af-DCD, https://arxiv.org/abs/2312.04168, for ``'sum'``.

    Args:
        student, teacher: (B, ...) features.
        reduction: ``'sum'`` divides by B (Af-DCD as released: the weight depends on the map's size); ``'mean'`` by the
            number of elements.
    """
    student, teacher = cast_pair(student if torch.is_grad_enabled() else student.detach(), teacher)
    total = _Squares.apply(student, teacher)
    return total / max(len(student) if reduction == 'sum' else student.numel(), 1)


class _Squares(torch.autograd.Function):
    """``sum (s - t)^2``; the difference is computed block by block in both passes instead of being stored."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        ctx.save_for_backward(student, teacher)
        total = student.new_zeros((), dtype=sum_dtype(student))
        for s, t in _pixel_blocks(student, teacher):
            total += (s - t).square_().sum()
        return total.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        student, teacher = ctx.saved_tensors
        grad, scale = torch.empty_like(student), 2 * grad_output
        for s, t, g in _pixel_blocks(student, teacher, grad):
            torch.sub(s, t, out=g).mul_(scale)
        return grad, None


def _pixel_blocks(x: Tensor, *operands: Tensor) -> Iterator[list[Tensor]]:
    tensors = [y.reshape(-1, 1) if y.ndim < 2 else y for y in (x, *operands)]  # (n, 1) of (n,)
    outer, inner = tensors[0].shape[:2]
    for index in tiles(outer, inner, math.prod(tensors[0].shape[2:]), block_elements(x.device)):
        yield [y[index] for y in tensors]


@without_autocast
def feature_match(
    student: Tensor,
    teacher: Tensor,
    *,
    cosine: float = 0.5,
    smooth_l1: float = 0.5,
    mse: float = 0.0,
    inside: Tensor | None = None,
) -> Tensor:
    """``mean_b mean_p [a (1 - cos(s_bp, t_bp)) + b mean_c huber(s_bpc - t_bpc) + c mean_c (s_bpc - t_bpc)^2]``.

    ``huber(d) = d^2 / 2`` where ``|d| < 1``, else ``|d| - 1/2``. A position where one of the vectors is not longer than
    1e-6 has no direction and no part in the first term. A picture without a position counts as 0.

    Source: the distances of UNIC, https://arxiv.org/abs/2408.05088, and DUNE, https://arxiv.org/abs/2503.14405.

    Args:
        student, teacher: (B, C, H, W) maps.
        cosine, smooth_l1, mse: a, b and c, at least 0.
        inside: (B, H, W) bool, the positions p inside the pictures. Defaults to all.
    """
    student, teacher = cast_pair(student, teacher)
    if student.ndim != 4 or (inside is not None and inside.shape != (len(student), *student.shape[2:])):
        shapes = f'{tuple(student.shape)} and {None if inside is None else tuple(inside.shape)}'
        raise ValueError(f'maps must be (B, C, H, W) and inside (B, H, W), got {shapes}')
    valid = student.new_ones(len(student), *student.shape[2:]) if inside is None else inside.to(student.dtype)
    valid = valid.flatten(1)  # (B, H*W)
    weight = valid / (valid.sum(1, keepdim=True).clamp_min(1) * max(len(student), 1))  # of a picture: 1 / B in all
    total = student.new_zeros(())
    if cosine:
        (s, s_weight), (t, t_weight) = (normalize_pixels(x, inside) for x in (student, teacher))
        angle = (s - t).square().sum(1) / 2  # 1 - cos, without cancellation
        total += cosine * (angle * s_weight * t_weight * weight.flatten()).sum()  # (B*H*W,)
    for factor, error in ((smooth_l1, F.smooth_l1_loss), (mse, F.mse_loss)):
        if factor and inside is None and student.numel():
            total += factor * error(student, teacher)  # the same mean without a map in between
        elif factor:
            total += factor * (error(student, teacher, reduction='none').mean(1).flatten(1) * weight).sum()  # (B, H*W)
    return total


@without_autocast
def smooth_l1(student: Tensor, teacher: Tensor, *, beta: float = 1.0) -> Tensor:
    """``mean huber(student - teacher)`` over all elements; ``huber(d) = d^2 / (2 beta)`` where ``|d| < beta``, else
    ``|d| - beta / 2`` (Girshick, "Fast R-CNN", 2015, eq. 3). ``beta=0`` is the absolute difference.
    """
    total = F.smooth_l1_loss(*cast_pair(student, teacher, 'values'), beta=beta, reduction='sum')
    return total / max(student.numel(), 1)


@without_autocast
def standardized_mse(student: Tensor, teacher: Tensor, *, eps: float = 1e-6) -> Tensor:
    """``mean (z(student) - z(teacher))^2 / 2`` with ``z(x) = (x - mean) / (std + eps)`` per channel, over all else.

    With n values a channel and the unbiased deviation this is ``(1 - r) (n - 1) / n``, averaged over the channels,
    where ``r`` is Pearson's correlation of the channel (exactly so for ``eps = 0``). It is computed from the moments of
    the centred maps (B, C, ...); no standardised map is made.

    A channel counts as constant on a side where its deviation is at most ``eps``, or within rounding of its mean: its
    centred values are taken as 0 there. A constant channel of the student gets no gradient (the formula's would be
    ``z(teacher) / (n eps)``, a million times that of other channels); above, the gradient grows as 1 / deviation. A
    channel that is constant on one side has a loss of ``(n - 1) / 2n``, one that is on both has none.

    Source: Cao et al., PKD, NeurIPS 2022, https://arxiv.org/abs/2207.02039, eq. 3 to 5.
    """
    s, t = cast_pair(student, teacher)
    axes, values = [axis for axis in range(s.ndim) if axis != 1], max(s.numel() // max(s.shape[1], 1), 1)
    bessel, rounding = values / max(values - 1, 1), 4 * torch.finfo(s.dtype).eps
    s_mean, t_mean = [x.sum(axes, keepdim=True) / values for x in (s, t)]
    s_floor, t_floor = [(eps + rounding * mean.detach().abs()).flatten() for mean in (s_mean, t_mean)]  # (C,)
    s, t = s - s_mean, t - t_mean
    s_square, t_square, product = [x.sum(axes) / values for x in (s.square(), t.square(), s * t)]
    s_flat, t_flat = s_square <= s_floor.square(), t_square <= t_floor.square()
    s_square, t_square = s_square.masked_fill(s_flat, 0), t_square.masked_fill(t_flat, 0)
    product = product.masked_fill(s_flat | t_flat, 0)
    s_scale, t_scale = (_deviation(square * bessel) + eps for square in (s_square, t_square))
    squares = s_square / s_scale.square() + t_square / t_scale.square()
    return (squares / 2 - product / (s_scale * t_scale)).sum() / max(student.shape[1], 1)


def _deviation(variance: Tensor) -> Tensor:
    """Return the square root, with a gradient of 0 at 0."""
    constant = variance == 0
    return torch.where(constant, 0.0, torch.where(constant, 1.0, variance).sqrt())


@without_autocast
def attention_distance(student: Tensor, teacher: Tensor, *, power: float = 2.0, reduction: str = 'mean') -> Tensor:
    """``|| q_s / |q_s| - q_t / |q_t| ||^2`` of the attention maps ``q = sum_c |x_c|^power``, mean over the batch.

    Source: Zagoruyko & Komodakis, AT, ICLR 2017, https://arxiv.org/abs/1612.03928, eq. 2, squared as in their code.

    Args:
        student, teacher: (B, C_s, ...) and (B, C_t, ...) maps of one size; the channels may differ.
        power: Exponent of the activations, at least 1; a higher one emphasises strong activations.
        reduction: ``'mean'`` divides by the number of positions too (the released form: the weight depends on the map's
            size); ``'sum'`` does not, and gives values from 0 to 2 at any size.
    """
    check_same_grid(student, teacher)
    maps = [x.to(loss_dtype(x)).flatten(2) for x in (student, teacher.detach())]  # (B, C, N)
    s, t = [F.normalize(_Energy.apply(x if torch.is_grad_enabled() else x.detach(), power), dim=1) for x in maps]
    distance = (s - t).square().sum()
    return distance / max(s.numel() if reduction == 'mean' else len(s), 1)


class _Energy(torch.autograd.Function):
    """``sum_c |x_c|^power`` of (B, C, N), computed block by block in both passes: no map of powers is stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, power: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.power, ctx.blocks = power, tiles(len(x), x.shape[1], x.shape[2], block_elements(x.device) // 2)
        energy = x.new_zeros(x.shape[0], x.shape[2])
        for b, c in ctx.blocks:
            part = x[b, c]
            energy[b] += (part.square() if power == 2 else part.abs().pow_(power)).sum(1)
        return energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (x,), power = ctx.saved_tensors, ctx.power
        grad, scale = torch.empty_like(x), (power * grad_output)[:, None]
        for b, c in ctx.blocks:
            part = x[b, c]
            slope = part if power == 2 else part.abs().pow_(power - 1).mul_(part.sign())
            torch.mul(slope, scale[b], out=grad[b, c])
        return grad, None
