"""Distance of normalised attention maps (AT)."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdistill_dense.losses.blocks import block_elements, tiles
from mmdistill_dense.losses.precision import check_same_grid, loss_dtype, without_autocast


@without_autocast
def attention_distance(student: Tensor, teacher: Tensor, *, power: float = 2.0, reduction: str = 'mean') -> Tensor:
    """``|| q_s / |q_s| - q_t / |q_t| ||^2`` of the attention maps ``q = sum_c |x_c|^power``, mean over the batch.

    Source: Zagoruyko & Komodakis, AT, ICLR 2017, https://arxiv.org/abs/1612.03928, eq. 2, squared as in their code.

    Args:
        student: (B, C_s, ...) maps, the only input that gets a gradient.
        teacher: (B, C_t, ...) maps of the same batch and size; the channels may differ.
        power: Exponent of the activations, at least 1; a higher one emphasises strong activations.
        reduction: ``'mean'`` divides by the number of positions too (the released form: the weight depends on the map's
            size); ``'sum'`` does not, and gives values from 0 to 2 at any size.

    Returns:
        Scalar in float32 (float64 for float64 maps); 0 where there are no pictures or no positions.

    Raises:
        ValueError: Unequal batch or size, a power below 1 or an unknown reduction.
    """
    if not power >= 1:
        raise ValueError(f'power must be at least 1, got {power}')
    if reduction not in ('mean', 'sum'):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    check_same_grid(student, teacher)
    s, t = _attention(student, power), _attention(teacher.detach(), power)
    distance = (s - t).square().sum()
    return distance / max(s.numel() if reduction == 'mean' else len(s), 1)


def _attention(x: Tensor, power: float) -> Tensor:
    x = x.to(loss_dtype(x)).flatten(2)
    return F.normalize(_Energy.apply(x if torch.is_grad_enabled() else x.detach(), power), dim=1)


class _Energy(torch.autograd.Function):
    """``sum_c |x_c|^power`` of (B, C, N), computed block by block in both passes: no map of powers is stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, power: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.power = power
        energy = x.new_zeros(x.shape[0], x.shape[2])
        for b, c in _blocks(x):
            part = x[b, c]
            energy[b] += (part.square() if power == 2 else part.abs().pow_(power)).sum(1)
        return energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (x,), power = ctx.saved_tensors, ctx.power
        grad, scale = torch.empty_like(x), (power * grad_output)[:, None]
        for b, c in _blocks(x):
            part = x[b, c]
            slope = part if power == 2 else part.abs().pow_(power - 1).mul_(part.sign())
            torch.mul(slope, scale[b], out=grad[b, c])
        return grad, None


def _blocks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    return tiles(x.shape[0], x.shape[1], x.shape[2], block_elements(x.device) // 2)
