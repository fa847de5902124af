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

from mmdistill_dense.losses.contrast_chunks import Tokens, loss_and_grad
from mmdistill_dense.losses.tensors import (
    check_same_shape,
    loss_dtype,
    to_device,
    wants_gradient,
    with_gradients,
    without_autocast,
)

_SCATTER_SHARE = 0.6  # of kept positions; above it one convolution over all of them is faster
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
    """Convolution of a map that is zero at most positions: one matrix product of the others per kernel element."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, index: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(rows, weight, index)
        ctx.shape = shape
        grid = _Padded(shape, weight.shape[2])
        out = bias.repeat(grid.positions, 1)  # as rows: a kernel element adds whole rows, each to another one
        for u, v, targets in grid.taps(index):
            out.index_add_(0, targets, rows @ weight[:, :, u, v].t().contiguous())
        return grid.to_map(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        rows, weight, index = ctx.saved_tensors
        grid = _Padded(ctx.shape, weight.shape[2])
        grads = grid.to_rows(grad_output)
        of_rows, of_weight = torch.zeros_like(rows), torch.empty_like(weight)
        for u, v, targets in grid.taps(index):
            grad_rows = grads.index_select(0, targets)  # (n, Co)
            of_rows.addmm_(grad_rows, weight[:, :, u, v].contiguous())
            of_weight[:, :, u, v] = grad_rows.t() @ rows
        return of_rows, of_weight, grad_output.sum((0, 2, 3)), None, None


class _Padded:
    """The positions of B maps, each padded by ``kernel // 2``, as rows of a matrix."""

    def __init__(self, shape: torch.Size, kernel: int) -> None:
        batch, _, height, width = shape
        self.kernel, self.border = kernel, kernel // 2
        self.inner = batch, height, width
        self.outer = batch, height + 2 * self.border, width + 2 * self.border
        self.positions = math.prod(self.outer)

    def taps(self, index: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Yield each kernel element (u, v) with the rows to which the positions ``index`` of the maps add."""
        _, height, width = self.inner
        image, position = index // (height * width), index % (height * width)
        row, column = position // width + 2 * self.border, position % width + 2 * self.border
        origin = (image * self.outer[1] + row) * self.outer[2] + column
        for u, v in itertools.product(range(self.kernel), repeat=2):
            yield u, v, origin - (u * self.outer[2] + v)

    def to_map(self, rows: Tensor) -> Tensor:
        """Return (positions, C) without the border as (B, C, H, W)."""
        batch, height, width = self.inner
        maps = rows.new_empty(batch, rows.shape[1], height, width)  # not a view, which could not be changed in place
        for source, target in zip(self._inside(rows), maps.flatten(2), strict=True):  # (H, W, C) and (C, H*W)
            target.copy_(source.reshape(-1, rows.shape[1]).t())  # (C, H*W)
        return maps

    def to_rows(self, maps: Tensor) -> Tensor:
        """Return (B, C, H, W) as (positions, C), zero in the border."""
        rows = maps.new_zeros(self.positions, maps.shape[1])
        for source, target in zip(maps, self._inside(rows), strict=True):
            target.copy_(source.flatten(1).t().contiguous().view(target.shape))  # (C, H*W) to (H, W, C)
        return rows

    def _inside(self, rows: Tensor) -> Tensor:
        end = -self.border or None
        return rows.view(*self.outer, -1)[:, self.border : end, self.border : end]  # (B, H, W, C)


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
    patch = _clip_window((1, 1) if contrast == 'channel' else patch_size, student)
    dtype = loss_dtype(student)
    cut = Tokens(groups, patch, contrast == 'omni' and negatives == 'other_groups')
    positions = len(student) * math.prod(
        size // side * side for size, side in zip(student.shape[2:], patch, strict=True)
    )
    student, needs_grad = student.to(dtype), wants_gradient(student)
    with torch.no_grad():
        loss, grad = loss_and_grad(student, teacher.to(dtype), cut, temperature, needs_grad)
    return with_gradients(loss.to(dtype), (student, grad)) / positions


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
    if contrast not in CONTRASTS:
        raise ValueError(f'contrast must be one of {CONTRASTS}, got {contrast!r}')
    if negatives not in NEGATIVES:
        raise ValueError(f'negatives must be one of {NEGATIVES}, got {negatives!r}')
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
