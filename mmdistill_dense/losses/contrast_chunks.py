"""Loss and gradient of the dense contrast of a map, computed in chunks of patches."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmdistill_dense.losses.tensors import block_elements, sum_dtype, tiles

_SPARSE_SHARE = 1 / 32  # above this share of surviving pairs the dense backward is faster and smaller
_PAIRS = 2**17  # token pairs held at a time on the CPU: 512 KiB of float32


class Tokens(NamedTuple):
    """How a map is cut into tokens, and which of them are compared."""

    groups: int  # M
    patch: tuple[int, int]  # height and width, of N positions
    other_groups: bool  # leave out the anchor's own group at other positions


def loss_and_grad(
    student: Tensor, teacher: Tensor, cut: Tokens, temperature: float, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the sum of the losses of all tokens of (B, C, H, W) maps, in :func:`sum_dtype`, and its gradient."""
    (height, width), m = cut.patch, cut.groups
    rows, columns = student.shape[2] // height, student.shape[3] // width
    pairs = (height * width * m) ** 2
    budget = _PAIRS if student.device.type == 'cpu' else block_elements(student.device)
    loss = student.new_zeros((), dtype=sum_dtype(student))
    grad = torch.zeros_like(student, memory_format=torch.contiguous_format) if needs_grad else None
    for image, (band, _) in itertools.product(range(len(student)), tiles(rows, 1, columns * pairs, budget)):
        part = (image, slice(None), slice(band.start * height, band.stop * height), slice(columns * width))
        x, y = _token_rows(student[part]), _token_rows(teacher[part])
        tokens, candidates = _by_patches(x, columns, cut), _by_patches(y, columns, cut)
        for patches in tiles(tokens.shape[0], columns, pairs, budget):
            loss += _chunk(tokens[patches], candidates[patches], cut, temperature, budget, needs_grad)
        if grad is not None:
            grad[part] = x.t().contiguous().view_as(grad[part])
    return loss, grad


def _token_rows(x: Tensor) -> Tensor:
    """Copy (C, h, w) to (h * w, C) in two steps, which is far faster than one gathering copy."""
    return x.flatten(1).contiguous().t().clone(memory_format=torch.contiguous_format)  # (h*w, C)


def _by_patches(x: Tensor, columns: int, cut: Tokens) -> Tensor:
    """View (rows * ph * cols * pw, C) as (rows, cols, ph, pw, M, D)."""
    (height, width), m = cut.patch, cut.groups
    return x.view(-1, height, columns, width, m, x.shape[1] // m).transpose(1, 2)  # (rows, cols, ph, pw, M, D)


def _chunk(
    tokens: Tensor, candidates: Tensor, cut: Tokens, temperature: float, budget: int, needs_grad: bool
) -> Tensor:
    """Return the loss sum of patches (rows, cols, ph, pw, M, D); overwrite their tokens with the gradient."""
    n, m, d = cut.patch[0] * cut.patch[1], cut.groups, tokens.shape[-1]
    x, y = tokens.reshape(-1, n * m, d), candidates.reshape(-1, n * m, d)  # (P, N*M, D)
    grad = torch.empty_like(x) if needs_grad else None
    loss = x.new_zeros((), dtype=sum_dtype(x))
    for p, positions in tiles(len(x), n, m * n * m, budget):
        rows = slice(positions.start * m, positions.stop * m)
        z = _logits(x[p, rows], y[p], rows.start, cut, temperature)
        positive = z.diagonal(offset=rows.start, dim1=1, dim2=2)
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


def _logits(x: Tensor, y: Tensor, start: int, cut: Tokens, temperature: float) -> Tensor:
    """Return ``-d_ij / tau`` of the tokens from ``start`` on to all candidates of their patches, -inf if left out."""
    z = _distances(x, y).mul_(-1 / temperature)
    if cut.other_groups:
        diagonal = z.diagonal(offset=start, dim1=1, dim2=2)
        positive = diagonal.clone()
        m = cut.groups
        z.unflatten(2, (-1, m)).unflatten(1, (-1, m)).diagonal(dim1=2, dim2=4).fill_(-torch.inf)  # (P, n, M, N, M)
        diagonal.copy_(positive)
    return z


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
            return _sparse_sign_sum(weight, x, y, alive)
    out = torch.empty_like(x)
    for p, i, difference in _differences(x, y):
        out[p, i] = torch.matmul(weight[p, i, None], difference.sign_()).squeeze(-2)
    return out


def _sparse_sign_sum(weight: Tensor, x: Tensor, y: Tensor, alive: Tensor) -> Tensor:
    pair = alive.flatten().nonzero()[:, 0]  # (pairs,), of P*rows*cols
    row = pair // y.shape[1]  # of all patches
    column = pair % y.shape[1] + row // x.shape[1] * y.shape[1]
    terms = x.flatten(0, 1)[row].sub_(y.flatten(0, 1)[column]).sign_().mul_(weight.flatten()[pair, None])  # (pairs, D)
    return x.new_zeros(x.shape[0] * x.shape[1], x.shape[2]).index_add_(0, row, terms).view_as(x)
