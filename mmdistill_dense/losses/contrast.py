"""Dense contrast between student and teacher tokens of one patch (Af-DCD), loss and gradient in one pass.

A map is cut into patches of N positions and each position into M channel groups of D channels; a token is one group at
one position. Every student token is compared with the teacher tokens of its patch by the L1 distance, and asked to be
nearest to the teacher token at its own place. The variants differ only in N, M and in which tokens are candidates.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdistill_dense.losses.precision import check_same_shape, loss_dtype, without_autocast
from mmdistill_dense.losses.tiles import block_elements, tiles

CONTRASTS = ('omni', 'channel', 'spatial')
NEGATIVES = ('other_groups', 'all')

_SPARSE_SHARE = 1 / 32  # above this share of surviving pairs the dense backward is faster and smaller
_PAIRS = 2**17  # token pairs held at a time: 512 KiB of float32


@without_autocast
def dense_contrast(
    student: Tensor,
    teacher: Tensor,
    *,
    contrast: str = 'omni',
    negatives: str = 'other_groups',
    groups: int = 16,
    temperature: float = 0.07,
    pool_size: int = 4,
    patch_size: Sequence[int] | None = (4, 4),
) -> Tensor:
    """Contrast of student tokens with the teacher tokens of the same patch.

    ``sum_i [logsumexp_j(-d_ij / tau) + d_ii / tau] / (h * w) / B`` with ``d_ij`` the L1 distance of student token i and
    teacher token j, ``h x w`` the size after pooling and cropping. Source: Af-DCD (NeurIPS 2023); ``spatial`` and
    ``channel`` after its overview figure, ``omni`` as released. The maps are max-pooled, then cropped at the bottom and
    right to whole patches.

    Args:
        student: (B, C, H, W) map, usually a projector's output. The only input that gets a gradient.
        teacher: (B, C, H, W) map.
        contrast: ``'omni'``: tokens are channel groups, all of a patch; ``'channel'``: channel groups of one position
            (patch 1 x 1); ``'spatial'``: whole channel vectors, all of a patch.
        negatives: Of ``'omni'`` alone: ``'other_groups'`` leaves out the tokens of the anchor's own group at other
            positions, ``'all'`` keeps them.
        groups: Channel groups M of ``'omni'`` and ``'channel'``, at least 2 and a divisor of C.
        temperature: tau, by which distances are divided.
        pool_size: Kernel and stride of the max-pooling before; 0 or 1 is none.
        patch_size: Height and width of a patch in pooled positions; None is the whole map. ``'channel'`` ignores it.

    Returns:
        Scalar in float32 (float64 for float64 maps).

    Raises:
        ValueError: An option out of range, maps of different shape, or maps smaller than one patch.
    """
    check_same_shape(student, teacher)
    check_contrast(contrast, negatives, groups, temperature, pool_size, patch_size, channels=student.shape[1])
    groups = 1 if contrast == 'spatial' else groups
    teacher = teacher.detach()
    if pool_size > 1:
        _check_fits('pool_size', (pool_size, pool_size), student)
        student, teacher = _max_pool(student, pool_size), _max_pool(teacher, pool_size)
    patch = (1, 1) if contrast == 'channel' else patch_size or (student.shape[2], student.shape[3])
    _check_fits('patch_size', patch, student)
    dtype = loss_dtype(student)
    tokens = _to_tokens(student.to(dtype), groups, patch)
    candidates = _to_tokens(teacher.to(dtype), groups, patch)
    positions = tokens.shape[0] * tokens.shape[1]  # of the whole batch
    loss = _TokenContrast.apply(tokens, candidates, temperature, contrast == 'omni' and negatives == 'other_groups')
    return loss / positions


def check_contrast(
    contrast: str,
    negatives: str,
    groups: int,
    temperature: float,
    pool_size: int,
    patch_size: Sequence[int] | None,
    *,
    channels: int | None = None,
) -> None:
    """Check the options of :func:`dense_contrast`, against a map's channels where they are known.

    Raises:
        ValueError: Naming the option, what was found and what would work.
    """
    if contrast not in CONTRASTS:
        raise ValueError(f'contrast must be one of {CONTRASTS}, got {contrast!r}')
    if negatives not in NEGATIVES:
        raise ValueError(f'negatives must be one of {NEGATIVES}, got {negatives!r}')
    if not temperature > 0:
        raise ValueError(f'temperature must be above 0, got {temperature}')
    if pool_size < 0:
        raise ValueError(f'pool_size must be 0 (none) or a kernel size, got {pool_size}')
    if patch_size is not None and (len(patch_size) != 2 or min(patch_size) < 1):
        raise ValueError(f'patch_size must be (height, width) or None for the whole map, got {patch_size}')
    if contrast == 'spatial':
        if patch_size is not None and tuple(patch_size) == (1, 1):
            raise ValueError("patch_size must hold two positions or more for contrast='spatial', got (1, 1)")
    elif groups < 2:
        raise ValueError(
            f'groups must be at least 2 for contrast={contrast!r} (one alone has no negatives), got {groups}'
        )
    elif channels is not None and channels % groups:
        raise ValueError(f'groups={groups} does not divide the {channels} channels of the maps')


def _check_fits(option: str, window: Sequence[int], x: Tensor) -> None:
    if x.shape[2] < window[0] or x.shape[3] < window[1]:
        raise ValueError(
            f'{option} {window[0]}x{window[1]} does not fit a map of {x.shape[2]}x{x.shape[3]} (after any pooling); '
            'choose a smaller patch_size or pool_size, or tap a larger map'
        )


def _max_pool(x: Tensor, size: int) -> Tensor:
    if x.requires_grad:
        return F.max_pool2d(x, size)
    # the same values, five times faster on the CPU, where no index of the maximum is needed
    x = x[:, :, : x.shape[2] // size * size, : x.shape[3] // size * size]
    return x.unflatten(2, (-1, size)).amax(3).unflatten(3, (-1, size)).amax(4)


def _to_tokens(x: Tensor, groups: int, patch: Sequence[int]) -> Tensor:
    """(B, C, H, W) -> (patches, N, M, D), the remainder at the bottom and right cropped away."""
    b, c, h, w = x.shape
    rows, cols = h // patch[0], w // patch[1]
    x = x[:, :, : rows * patch[0], : cols * patch[1]]
    x = x.reshape(b, groups, c // groups, rows, patch[0], cols, patch[1])
    x = x.permute(0, 3, 5, 4, 6, 1, 2)  # (B, rows, cols, ph, pw, M, D)
    return x.reshape(b * rows * cols, patch[0] * patch[1], groups, c // groups).contiguous()


class _TokenContrast(torch.autograd.Function):
    """Sum of the rows' losses; the gradient of the tokens is found beside it and only scaled in backward."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, candidates: Tensor, temperature: float, other_groups: bool) -> Tensor:
        loss, grad = _loss_and_grad(tokens, candidates, temperature, other_groups, ctx.needs_input_grad[0])
        if grad is not None:
            ctx.save_for_backward(grad)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_output, None, None, None


def _loss_and_grad(
    tokens: Tensor, candidates: Tensor, temperature: float, other_groups: bool, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Loss sum and gradient of (P, N, M, D) tokens, in chunks of patches and positions: the rows are independent."""
    patches, n, m, d = tokens.shape
    loss = tokens.new_zeros((), dtype=torch.float64)
    grad = torch.zeros_like(tokens) if needs_grad else None
    for p, pos in tiles(patches, n, m * n * m, _PAIRS):
        x, y = tokens[p, pos].flatten(1, 2), candidates[p].flatten(1, 2)  # (p, rows, D), (p, N * M, D)
        z = _distances(x, y).mul_(-1 / temperature)
        own = z.diagonal(offset=pos.start * m, dim1=1, dim2=2)
        positive = own.clone()
        if other_groups:
            z.view(len(z), -1, m, n, m).diagonal(dim1=2, dim2=4).fill_(-torch.inf)
            own.copy_(positive)
        # z reaches 1e4: exp(z - logsumexp) would lose three digits of the gradient; softmax shifts by the row's maximum
        # first, and gives the sum that the loss needs as well: the largest p is 1 / sum(exp(z - max))
        largest = z.amax(-1)
        z = z.softmax(-1)
        loss += (largest - positive - z.amax(-1).log()).sum(dtype=torch.float64)
        if grad is not None:
            z.diagonal(offset=pos.start * m, dim1=1, dim2=2).sub_(1)
            grad[p, pos] = _sign_sum(z, x, y).mul_(-1 / temperature).view(len(z), -1, m, d)
    return loss.to(tokens.dtype), grad


def _differences(x: Tensor, y: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield blocks of ``x[p, i] - y[p, j]`` as (p, i, (p, i, j, D)), all in one reused buffer of a cache's size."""
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
    """L1 distances (p, rows, cols); on the CPU faster and more exact than ``torch.cdist``, which sums one by one."""
    out = x.new_empty(x.shape[0], x.shape[1], y.shape[1])
    for p, i, difference in _differences(x, y):
        torch.sum(difference.abs_(), -1, out=out[p, i])
    return out


def _sign_sum(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``sum_j weight[p, i, j] * sign(x[p, i] - y[p, j])`` as (p, rows, D), with sign(0) = 0."""
    if x.device.type == 'cpu':  # elsewhere looking for survivors would wait for the device
        # smaller weights are lost in the rounding of the sum; negated, so that NaN stays
        alive = ~(weight.abs() < torch.finfo(weight.dtype).eps * 2**-11)
        if int(alive.sum()) <= _SPARSE_SHARE * alive.numel():
            return _sparse_sign_sum(weight, x, y, alive)
    out = torch.empty_like(x)
    for p, i, difference in _differences(x, y):
        out[p, i] = torch.matmul(weight[p, i, None], difference.sign_()).squeeze(-2)
    return out


def _sparse_sign_sum(weight: Tensor, x: Tensor, y: Tensor, alive: Tensor) -> Tensor:
    p, i, j = alive.nonzero(as_tuple=True)
    terms = (x[p, i] - y[p, j]).sign_().mul_(weight[p, i, j, None])  # (pairs, D)
    out = x.new_zeros(x.shape[0] * x.shape[1], x.shape[2])
    return out.index_add_(0, p * x.shape[1] + i, terms).view_as(x)
