"""Masked feature distillation with receptive tokens (MasKD): masks, their weights, and the masked error.

A token ``E_i`` is a vector of C numbers; ``sigmoid(E_i . x)`` is a soft mask over the positions of a map. The error of
all masks together is one squared error with one weight per position, because ``(m s - m t)^2 = m^2 (s - t)^2`` and the
weights do not depend on the channel; no tensor of tokens x channels x positions is ever made.

Source: Huang et al., MasKD, ICLR 2023, https://arxiv.org/abs/2205.14589.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdistill_dense.losses.tensors import (
    block_elements,
    cast_pair,
    loss_dtype,
    sum_dtype,
    tiles,
    without_autocast,
)

_MIN_AREA = 1e-12  # a mask that underflows has no area; its weight becomes 0 instead of 0 / 0


class Branch(NamedTuple):
    """Parameters of the branch that weighs the masks of an image: 3x3 convolution, mean over positions, 1x1, softmax.

    ``conv_weight`` (C, C, 3, 3), ``conv_bias`` (C,), ``fc_weight`` (T, C, 1, 1), ``fc_bias`` (T,).
    """

    conv_weight: Tensor
    conv_bias: Tensor
    fc_weight: Tensor
    fc_bias: Tensor


@without_autocast
def token_masks(tokens: Tensor, x: Tensor) -> Tensor:
    """``sigmoid(sum_c tokens[i, c] x[n, c, ...])``: one soft mask per token.

    Args:
        tokens: (T, C).
        x: (N, C, H, W) map.

    Returns:
        (N, T, H, W) in (0, 1), float32 (float64 for a float64 map), differentiable in both arguments.
    """
    if tokens.ndim != 2 or tokens.shape[1] != x.shape[1]:
        raise ValueError(
            f'tokens must be (T, {x.shape[1]}) for a map of {tuple(x.shape)}, got {tuple(tokens.shape)}: '
            'tokens belong to the tap they were learned on'
        )
    x = x.to(loss_dtype(x))
    # torch.matmul would fold the batch into the rows, through a transposed copy of the map
    scores = torch.bmm(tokens.to(x.dtype).expand(len(x), -1, -1), x.flatten(2))  # (N, T, H*W)
    return scores.sigmoid_().unflatten(2, x.shape[2:])  # (N, T, H, W)


@without_autocast
def mask_weights(branch: Branch, x: Tensor) -> Tensor:
    """Return the weights of each image's masks, ``softmax(fc(mean(conv(x))))``, without running the convolution.

    The branch is linear up to the softmax, so the mean over positions goes first: the mean of a 3x3 convolution with
    zero padding needs the nine sums of the map shifted by -1, 0, 1, which are the total without an edge row and column.

    Args:
        branch: Parameters for C channels and T tokens.
        x: (N, C, H, W) map.

    Returns:
        (N, T), rows sum to 1; float32 (float64 for a float64 map), differentiable in all arguments.
    """
    x = x.to(loss_dtype(x))
    conv_weight, conv_bias, fc_weight, fc_bias = (parameter.to(x.dtype) for parameter in branch)
    sums = x.sum((2, 3))[..., None, None].repeat(1, 1, 3, 3)  # over the positions that each offset sees: (N, C, 3, 3)
    sums[..., 0] -= x[..., -1].sum(2)[..., None]  # offset -1 never sees the last column
    sums[..., 2] -= x[..., 0].sum(2)[..., None]
    for offset, row in ((0, x[:, :, -1]), (2, x[:, :, 0])):
        sums[:, :, offset] -= row.sum(2)[..., None]
        sums[:, :, offset, ::2] += torch.stack((row[..., -1], row[..., 0]), -1)  # the corner, taken off twice
    means = sums.flatten(1) / (x.shape[2] * x.shape[3])  # (N, C*3*3)
    pooled = F.linear(means, conv_weight.flatten(1), conv_bias)
    return F.linear(pooled, fc_weight.flatten(1), fc_bias).softmax(1)  # (N, T)


@without_autocast
def mask_dice(m: Tensor, eps: float = 1e-12) -> Tensor:
    """Mean overlap ``2 m_i.m_j / (m_i.m_i + m_j.m_j)`` over images and ordered pairs of masks (N, T, ...) (Dice).

    1 for equal masks, 0 for disjoint ones and where there is only one mask or no image. ``eps`` is added twice to the
    denominator.
    """
    m = m.to(loss_dtype(m)).flatten(2)  # (N, T, P)
    batch, tokens, _ = m.shape
    if tokens < 2:
        return 0 * m.sum()  # no pairs, and NaN where the mask is NaN
    gram = torch.bmm(m, m.mT)
    squares = gram.diagonal(dim1=1, dim2=2)
    overlap = 2 * gram / (squares[:, :, None] + squares[:, None] + 2 * eps)
    diagonal = torch.eye(tokens, dtype=torch.bool, device=m.device)
    return overlap.masked_fill(diagonal, 0).sum() / max(batch * tokens * (tokens - 1), 1)


@without_autocast
def gate(x: Tensor, m: Tensor, p: Tensor | None = None) -> Tensor:
    """``x * sum_i p_i m_i``: the map that a teacher's head gets while its tokens are learned.

    Args:
        x: (N, C, H, W) map.
        m: (N, T, H, W) masks.
        p: (N, T) weights of the masks; without them the masks are summed.

    Returns:
        (N, C, H, W) in ``x``'s dtype, differentiable in all arguments.
    """
    if p is not None:
        m = torch.bmm(p[:, None], m.flatten(2)).unflatten(2, m.shape[2:])  # (N, 1, H, W)
    return x * m.sum(1, keepdim=True).to(x.dtype)


@without_autocast
def pixel_weights(m: Tensor, p: Tensor | None = None, eps: float = 0.0) -> Tensor:
    """``W = sum_i p_i m_i^2 / (area_i + eps)``, the weight of each position; over an image it sums to at most 1.

    Args:
        m: (N, T, H, W) masks.
        p: (N, T) weights of the masks. Defaults to 1 / T.
        eps: Added to each mask's area, the sum over its positions; the sum is at least 1e-12.

    Returns:
        (N, 1, H, W) in float32 (float64 for float64 masks).
    """
    m = m.to(loss_dtype(m))
    area = (m.sum((2, 3)) + eps).clamp_min(_MIN_AREA)
    share = 1 / m.shape[1] / area if p is None else p.to(m.dtype) / area
    return (m * share[..., None, None] * m).sum(1, keepdim=True)  # m^2 first could underflow


@without_autocast
def weighted_mse(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """``sum_n,p W[n, p] sum_c (student - teacher)[n, c, p]^2 / (N C)`` of maps (N, C, H, W) and a weight (N, 1, H, W),
    without a map of differences.
    """
    s, t = cast_pair(student, teacher)
    if weight.shape != (len(s), 1, *s.shape[2:]):
        raise ValueError(f'weight must be (N, 1, H, W) for maps of {tuple(s.shape)}, got {tuple(weight.shape)}')
    return _WeightedSquares.apply(s, t, weight.detach().to(s.dtype)) / max(s.shape[0] * s.shape[1], 1)


@without_autocast
def masked_feature_loss(
    student: Tensor,
    teacher: Tensor,
    tokens: Tensor,
    branch: Branch | None = None,
    *,
    student_mask: bool = False,
    eps: float = 0.0,
    factor: float = 1.0,
) -> Tensor:
    """Squared error weighted by the teacher's masks: the loss of one level of MasKD.

    ``factor * mean_n sum_i p_i mean_c [sum_P m_i^2 (student - teacher)_c^2 / sum_P m_i]``, masks ``m`` from the
    teacher's map, weights ``p`` from the branch on the teacher's map.

    Args:
        student, teacher: (N, C, H, W) maps, the student's after the align.
        tokens: (T, C).
        branch: Weighs the masks of each image. Defaults to equal weights 1 / T.
        student_mask: Also multiply each mask by the student's own, as a constant.
        eps: Added to the area of a mask: 0 for detection, 1e-5 for segmentation as released.
        factor: 1 for detection, 0.5 for segmentation as released.
    """
    student, teacher = cast_pair(student, teacher)
    if not student.numel():
        return student.sum()
    with torch.no_grad():
        masks = token_masks(tokens, teacher)
        if student_mask:
            masks *= token_masks(tokens, student)
        weight = pixel_weights(masks, None if branch is None else mask_weights(branch, teacher), eps)
    return factor * weighted_mse(student, teacher, weight)


class _WeightedSquares(torch.autograd.Function):
    """``sum W (s - t)^2``; the difference is computed block by block in both passes instead of being stored."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(student, teacher, weight)
        total = student.new_zeros((), dtype=sum_dtype(student))
        for s, t, w in _blocks(student, teacher, weight):
            difference = s - t
            total += (difference * w).mul_(difference).sum()
        return total.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        student, teacher, weight = ctx.saved_tensors
        grad = torch.empty_like(student)
        for s, t, w, g in _blocks(student, teacher, weight * (2 * grad_output), grad):
            torch.sub(s, t, out=g).mul_(w)
        return grad, None, None


def _blocks(x: Tensor, *maps: Tensor) -> Iterator[list[Tensor]]:
    """Cut the maps alike into blocks that are contiguous in the memory of ``x``: over channels, or rows if NHWC."""
    batch, channels, height, width = x.shape
    by_rows = x.stride(1) == 1 and channels > 1
    inner, cost = (height, width * channels) if by_rows else (channels, height * width)
    for n, i in tiles(batch, inner, cost, block_elements(x.device)):
        yield [y[n, :, i] if by_rows else y[n, i if y.shape[1] > 1 else slice(None)] for y in (x, *maps)]
