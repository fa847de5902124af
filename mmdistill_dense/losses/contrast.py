"""Af-DCD: masks of positions, the projector's first convolution, and dense contrast of tokens in one pass.

In the contrast, a map is cut into patches of N positions and each position into M channel groups of D channels; a token
is one group at one position. Every student token is compared with the teacher tokens of its patch by the L1 distance,
and asked to be nearest to the teacher token at its own place. The variants differ only in N, M and in which tokens are
candidates.

Source: Fan et al., Af-DCD, NeurIPS 2023, https://arxiv.org/abs/2312.04168.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdistill_dense.losses.tensors import (
    block_elements,
    check_same_shape,
    loss_dtype,
    sum_dtype,
    tiles,
    to_device,
    wants_gradient,
    with_gradients,
    without_autocast,
)

_SCATTER_SHARE = 0.6  # of kept positions; above it one convolution over all of them is faster
_SPARSE_SHARE = 1 / 32  # above this share of surviving pairs the dense backward is faster and smaller
_PAIRS = 2**17  # token pairs held at a time on the CPU: 512 KiB of float32
CONTRASTS = ('omni', 'channel', 'spatial')
NEGATIVES = ('other_groups', 'all')
TEMPERATURE = 0.07  # of tokens of a channel group, as released


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


def masked_conv(feat: Tensor, keep: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``conv(keep * feat)`` of stride 1 and zero padding; see :func:`masked_align_conv`, without its align."""
    index = _kept_positions(feat, keep)
    if index is None:
        return F.conv2d(feat * to_device(keep, feat).to(feat.dtype), weight, bias, padding=weight.shape[-1] // 2)
    return _SparseConv.apply(_rows(feat, index), weight, bias, index, feat.shape)


def masked_align_conv(
    feat: Tensor, keep: Tensor, align_weight: Tensor, align_bias: Tensor, conv_weight: Tensor, conv_bias: Tensor
) -> Tensor:
    """``conv(keep * align(feat))`` with the 1x1 align folded into the convolution where that is less work.

    The mask is one value per position, so it commutes with the align: one convolution with weight ``conv_weight . [W |
    b]`` over the Cs masked channels and ``keep`` itself (which carries the masked bias) gives the same output and,
    through autograd of the product, the same gradients, without the two (B, Ct, H, W) maps between. Where a bool mask
    keeps at most 0.6 of the positions, a CPU multiplies only those (not under autocast). A GPU convolves whole maps:
    its convolutions are several times faster than products of matrices in float32.

    Args:
        feat: (B, Cs, H, W) student map.
        keep: (B, 1, H, W) mask, True (1) where kept; moved to the map's device.
        align_weight, align_bias: (Ct, Cs, 1, 1) and (Ct,).
        conv_weight, conv_bias: (Co, Ct, k, k), k odd, and (Co,); stride 1, zero padding k // 2.

    Returns:
        (B, Co, H, W).
    """
    index = _kept_positions(feat, keep)
    rows = None if index is None else _rows(feat, index)
    (ct, cs), (co, _, *kernel) = align_weight.shape[:2], conv_weight.shape
    positions, taps = keep.numel() if rows is None else len(rows), math.prod(kernel)
    # it costs a product of weights per call, too much for few positions
    if taps * co * (cs + 1) * (positions + ct) < positions * ct * (cs + taps * co):
        spare = -(cs + 1) % 8 if feat.is_cuda else 0  # fast convolutions take channels by eights
        align = F.pad(torch.cat([align_weight.flatten(1), align_bias[:, None]], 1), (0, spare))  # (Ct, Cs + 1)
        # as a 1x1 convolution over the weight read as Co images: no transposed copy of it
        weight = F.conv2d(conv_weight, align.t()[..., None, None])  # (Co, Cs + 1, k, k)
        if rows is None:
            keep = to_device(keep, feat).to(feat.dtype)
            maps = torch.cat([feat * keep, keep.expand(-1, 1 + spare, -1, -1)], 1)  # (B, Cs + 1 + spare, H, W)
            return F.conv2d(maps, weight, conv_bias, padding=kernel[0] // 2)
        rows = F.pad(rows, (0, 1), value=1.0)
    elif rows is None:
        return masked_conv(F.conv2d(feat, align_weight, align_bias), keep, conv_weight, conv_bias)
    else:
        rows, weight = F.linear(rows, align_weight.flatten(1), align_bias), conv_weight  # (n, Ct)
    return _SparseConv.apply(rows, weight, conv_bias, index, feat.shape)


def _kept_positions(feat: Tensor, keep: Tensor) -> Tensor | None:
    """Return the kept positions if only those are to be multiplied."""
    expected = (len(feat), 1, *feat.shape[2:])
    if keep.shape != expected:
        raise ValueError(f'keep must be {expected} for a map of {tuple(feat.shape)}, got {tuple(keep.shape)}')
    if keep.dtype != torch.bool or {keep.device.type, feat.device.type} != {'cpu'} or not feat.numel():
        return None
    index = keep.flatten().nonzero()[:, 0]  # (n,), of B*H*W
    return None if len(index) > _SCATTER_SHARE * keep.numel() or torch.is_autocast_enabled('cpu') else index


def _rows(feat: Tensor, index: Tensor) -> Tensor:
    """Return the channels of some positions, (n, C)."""
    return feat.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, index)  # (B*H*W, C) to (n, C)


class _SparseConv(torch.autograd.Function):
    """Convolution of a map that is zero at most positions: one matrix product of the others per kernel element.

    The output is a matrix, whose rows are the positions of B maps that are padded by ``kernel // 2``.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, index: Tensor, shape: torch.Size) -> Tensor:
        (batch, _, height, width), border = shape, weight.shape[2] // 2
        ctx.outer = batch, height + 2 * border, width + 2 * border
        image, position = index // (height * width), index % (height * width)
        row, column = position // width + 2 * border, position % width + 2 * border
        origin = (image * ctx.outer[1] + row) * ctx.outer[2] + column  # where the kernel element (0, 0) adds
        ctx.save_for_backward(rows, weight, origin)
        padded = bias.repeat(*ctx.outer, 1)  # as rows: a kernel element adds whole rows, each to another one
        out, inner = padded.flatten(0, 2), slice(border, -border or None)  # out: (positions, C)
        for u, v in itertools.product(range(weight.shape[2]), repeat=2):
            out.index_add_(0, origin - (u * ctx.outer[2] + v), rows @ weight[:, :, u, v].t().contiguous())
        maps = out.new_empty(batch, len(weight), height, width)  # not a view, which could not be changed in place
        for source, target in zip(padded[:, inner, inner], maps.flatten(2), strict=True):  # (H, W, C) and (C, H*W)
            target.copy_(source.reshape(-1, len(weight)).t())  # (C, H*W)
        return maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        rows, weight, origin = ctx.saved_tensors
        kernel = weight.shape[2]
        padded = grad_output.new_zeros(*ctx.outer, len(weight))
        grads, inner = padded.flatten(0, 2), slice(kernel // 2, -(kernel // 2) or None)  # grads: (positions, C)
        for source, target in zip(grad_output, padded[:, inner, inner], strict=True):
            target.copy_(source.flatten(1).t().contiguous().view(target.shape))  # (C, H*W) to (H, W, C)
        of_rows, of_weight = torch.zeros_like(rows), torch.empty_like(weight)
        for u, v in itertools.product(range(kernel), repeat=2):
            grad_rows = grads.index_select(0, origin - (u * ctx.outer[2] + v))  # (n, Co)
            of_rows.addmm_(grad_rows, weight[:, :, u, v].contiguous())
            of_weight[:, :, u, v] = grad_rows.t() @ rows
        return of_rows, of_weight, grad_output.sum((0, 2, 3)), None, None


# Dense contrast


@without_autocast
def dense_contrast(
    student: Tensor,
    teacher: Tensor,
    *,
    contrast: str = 'omni',
    negatives: str = 'other_groups',
    groups: int = 16,
    temperature: float | None = None,
    pool_size: int = 4,
    patch_size: Sequence[int] | None = (4, 4),
) -> Tensor:
    """Contrast of student tokens with the teacher tokens of the same patch.

    ``sum_i [logsumexp_j(-d_ij / tau) + d_ii / tau] / (h * w) / B`` with ``d_ij`` the L1 distance of student token i and
    teacher token j, ``h x w`` the size after pooling and cropping. The maps are max-pooled, then cropped at the bottom
    and right to whole patches; a side that is shorter than a pooling window or a patch is one window or patch.

    Source: Fan et al., Af-DCD, NeurIPS 2023, https://arxiv.org/abs/2312.04168; ``omni`` as released, ``spatial`` and
    ``channel`` after the paper's overview figure.

    Args:
        student, teacher: (B, C, H, W) maps, the student's usually a projector's output.
        contrast: ``'omni'``: tokens are channel groups, all of a patch; ``'channel'``: channel groups of one position
            (patch 1 x 1); ``'spatial'``: whole channel vectors, all of a patch.
        negatives: Of ``'omni'`` alone: ``'other_groups'`` leaves out the tokens of the anchor's own group at other
            positions, ``'all'`` keeps them.
        groups: Channel groups M of ``'omni'`` and ``'channel'``, at least 2 and a divisor of C.
        temperature: tau, by which distances are divided. Defaults to :func:`contrast_temperature`.
        pool_size: Kernel and stride of the max-pooling before; 0 or 1 is none.
        patch_size: Height and width of a patch in pooled positions; None is the whole map. ``'channel'`` ignores it.
    """
    check_same_shape(student, teacher)
    check_contrast(contrast, negatives, groups, temperature, pool_size, patch_size, channels=student.shape[1])
    if not student.numel():
        return student.to(loss_dtype(student)).sum()
    temperature = contrast_temperature(contrast, student.shape[1]) if temperature is None else temperature
    groups = 1 if contrast == 'spatial' else groups
    teacher = teacher.detach()
    student = student if torch.is_grad_enabled() else student.detach()
    if pool_size > 1:
        window = _clip_window((pool_size, pool_size), student)
        student, teacher = _max_pool(student, window), _max_pool(teacher, window)
    height, width = _clip_window((1, 1) if contrast == 'channel' else patch_size, student)
    rows, columns = student.shape[2] // height, student.shape[3] // width
    dtype, needs_grad = loss_dtype(student), wants_gradient(student)
    student, teacher = student.to(dtype), teacher.to(dtype)
    loss = student.new_zeros((), dtype=sum_dtype(student))
    grad = torch.zeros_like(student, memory_format=torch.contiguous_format) if needs_grad else None
    budget = _PAIRS if student.device.type == 'cpu' else block_elements(student.device)
    pairs, other_groups = (height * width * groups) ** 2, contrast == 'omni' and negatives == 'other_groups'
    with torch.no_grad():
        for image, (band, _) in itertools.product(range(len(student)), tiles(rows, 1, columns * pairs, budget)):
            part = (image, slice(None), slice(band.start * height, band.stop * height), slice(columns * width))
            # (C, h, w) to (h*w, C) in two steps, which is far faster than one gathering copy
            x, y = [
                maps[part].flatten(1).contiguous().t().clone(memory_format=torch.contiguous_format)
                for maps in (student, teacher)
            ]
            tokens, candidates = [
                z.view(-1, height, columns, width, groups, z.shape[1] // groups).transpose(1, 2) for z in (x, y)
            ]  # (rows, cols, ph, pw, M, D)
            for patches in tiles(tokens.shape[0], columns, pairs, budget):
                loss += _chunk(tokens[patches], candidates[patches], other_groups, temperature, budget, needs_grad)
            if grad is not None:
                grad[part] = x.t().contiguous().view_as(grad[part])
    return with_gradients(loss.to(dtype), (student, grad)) / (len(student) * rows * height * columns * width)


def contrast_temperature(contrast: str, channels: int) -> float:
    """Return the default temperature of a variant for maps of ``channels`` channels.

    Channel groups (``'omni'``, ``'channel'``) have the released 0.07. Whole vectors (``'spatial'``), whose distances
    are sums over hundreds of channels, have 0.07 per channel: else the softmax would be one-hot, without a gradient.
    """
    return TEMPERATURE * channels if contrast == 'spatial' else TEMPERATURE


def check_contrast(
    contrast: str,
    negatives: str,
    groups: int,
    temperature: float | None,
    pool_size: int,
    patch_size: Sequence[int] | None,
    *,
    channels: int | None = None,
) -> None:
    """Check the options of :func:`dense_contrast`, against a map's channels where they are known."""
    for name, value, choices in (('contrast', contrast, CONTRASTS), ('negatives', negatives, NEGATIVES)):
        if value not in choices:
            raise ValueError(f'{name} must be one of {choices}, got {value!r}')
    if temperature is not None and not temperature > 0:
        raise ValueError(f'temperature must be above 0, got {temperature}')
    if pool_size < 0:
        raise ValueError(f'pool_size must be 0 (none) or a kernel size, got {pool_size}')
    if patch_size is not None and (len(patch_size) != 2 or min(patch_size) < 1):
        raise ValueError(f'patch_size must be (height, width) or None for the whole map, got {patch_size}')
    if contrast == 'spatial':
        if patch_size is not None and tuple(patch_size) == (1, 1):
            raise ValueError("patch_size must hold two positions or more for contrast='spatial', got (1, 1)")
    elif groups < 2:
        raise ValueError(f'groups must be at least 2 for contrast={contrast!r}, got {groups}')
    elif channels is not None and channels % groups:
        raise ValueError(f'groups={groups} does not divide the {channels} channels of the maps')


def _clip_window(window: Sequence[int] | None, x: Tensor) -> tuple[int, int]:
    """Return the window, at most as large as the map: some batches have far smaller pictures than others."""
    height, width = x.shape[2:]
    return (height, width) if window is None else (min(window[0], height), min(window[1], width))


def _max_pool(x: Tensor, window: tuple[int, int]) -> Tensor:
    if x.requires_grad:
        return F.max_pool2d(x, window)
    # the same values, five times faster on the CPU, where no index of the maximum is needed
    height, width = window
    x = x[:, :, : x.shape[2] // height * height, : x.shape[3] // width * width]
    return x.unflatten(2, (-1, height)).amax(3).unflatten(3, (-1, width)).amax(4)  # (B, C, h, kh, W), (B, C, h, w, kw)


def _chunk(
    tokens: Tensor, candidates: Tensor, other_groups: bool, temperature: float, budget: int, needs_grad: bool
) -> Tensor:
    """Return the loss sum of patches (rows, cols, ph, pw, M, D); overwrite their tokens with the gradient.

    ``other_groups`` leaves out the tokens of the anchor's own group at other positions.
    """
    height, width, m, d = tokens.shape[2:]
    n = height * width
    x, y = tokens.reshape(-1, n * m, d), candidates.reshape(-1, n * m, d)  # (P, N*M, D)
    grad = torch.empty_like(x) if needs_grad else None
    loss = x.new_zeros((), dtype=sum_dtype(x))
    for p, positions in tiles(len(x), n, m * n * m, budget):
        rows = slice(positions.start * m, positions.stop * m)
        z = _distances(x[p, rows], y[p]).mul_(-1 / temperature)
        positive = z.diagonal(offset=rows.start, dim1=1, dim2=2)
        if other_groups:
            logits = positive.clone()
            z.unflatten(2, (-1, m)).unflatten(1, (-1, m)).diagonal(dim1=2, dim2=4).fill_(-torch.inf)  # (P, n, M, N, M)
            positive.copy_(logits)
        # z reaches 1e4: exp(z - logsumexp) would lose three digits of the gradient; softmax shifts by the row's maximum
        # first, and gives the sum that the loss needs as well: the largest p is 1 / sum(exp(z - max))
        excess = z.amax(-1) - positive
        torch.softmax(z, -1, out=z)
        loss += (excess - z.amax(-1).log()).sum(dtype=loss.dtype)
        if grad is not None:
            positive.sub_(1)
            grad[p, rows] = _sign_sum(z, x[p, rows], y[p]).mul_(-1 / temperature)
    if grad is not None:
        tokens.copy_(grad.view(tokens.shape))  # (rows, cols, ph, pw, M, D)
    return loss


def _differences(x: Tensor, y: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield blocks of ``x[p, i] - y[p, j]`` as (p, i, (p, i, j, D)), all in one reused buffer that fits a cache."""
    (patches, rows, d), cols = x.shape, y.shape[1]
    buffer = x.new_empty(0)
    # the inner loop runs over the last axis in memory: over j where tokens are short
    short = 2 * d < cols
    y = y.mT.contiguous().mT if short else y
    for p, i in tiles(patches, rows, cols * d, block_elements(x.device)):
        buffer.resize_(p.stop - p.start, i.stop - i.start, *((d, cols) if short else (cols, d)))
        block = buffer.mT if short else buffer
        yield p, i, torch.sub(x[p, i, None], y[p, None], out=block)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Return L1 distances (p, rows, cols), on the CPU faster and more exactly than ``torch.cdist``."""
    out = x.new_empty(x.shape[0], x.shape[1], y.shape[1])
    for p, i, difference in _differences(x, y):
        torch.sum(difference.abs_(), -1, out=out[p, i])
    return out


def _sign_sum(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return ``sum_j weight[p, i, j] * sign(x[p, i] - y[p, j])`` as (p, rows, D), with sign(0) = 0."""
    if x.device.type == 'cpu':  # elsewhere counting the survivors would wait for the device
        # smaller weights are lost in the rounding of the sum; negated, so that NaN stays
        alive = ~(weight.abs() < torch.finfo(weight.dtype).eps * 2**-11)
        if int(alive.count_nonzero()) <= _SPARSE_SHARE * alive.numel():
            pair = alive.flatten().nonzero()[:, 0]  # (pairs,), of P*rows*cols
            row = pair // y.shape[1]  # of all patches
            column = pair % y.shape[1] + row // x.shape[1] * y.shape[1]
            terms = x.flatten(0, 1)[row].sub_(y.flatten(0, 1)[column])  # (pairs, D)
            terms.sign_().mul_(weight.flatten()[pair, None])
            return x.new_zeros(x.shape[0] * x.shape[1], x.shape[2]).index_add_(0, row, terms).view_as(x)
    out = torch.empty_like(x)
    for p, i, difference in _differences(x, y):
        out[p, i] = torch.matmul(weight[p, i, None], difference.sign_()).squeeze(-2)
    return out
