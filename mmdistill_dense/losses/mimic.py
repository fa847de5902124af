"""Feature mimicking: squared differences of two maps."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdistill_dense.losses.blocks import block_elements, tiles
from mmdistill_dense.losses.precision import check_same_shape, loss_dtype, sum_dtype, without_autocast


@without_autocast
def feature_mimic(student: Tensor, teacher: Tensor, *, reduction: str = 'sum') -> Tensor:
    """``sum (student - teacher)^2`` over all elements, divided by the batch or by their number.

    Source: FitNets, https://arxiv.org/abs/1412.6550, eq. 3; Af-DCD, https://arxiv.org/abs/2312.04168, for ``'sum'``.

    Args:
        student: (B, ...) features, the only input that gets a gradient.
        teacher: Features of the same shape.
        reduction: ``'sum'`` divides by B (Af-DCD as released: the weight depends on the map's size); ``'mean'`` by the
            number of elements.

    Returns:
        Scalar in float32 (float64 for float64 features); 0 where there are none.

    Raises:
        ValueError: Unequal shapes or an unknown reduction.
    """
    if reduction not in ('sum', 'mean'):
        raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
    check_same_shape(student, teacher)
    dtype = loss_dtype(student)
    student = student.to(dtype) if torch.is_grad_enabled() else student.detach().to(dtype)
    total = _Squares.apply(student, teacher.detach().to(dtype))
    return total / max(len(student) if reduction == 'sum' else student.numel(), 1)


class _Squares(torch.autograd.Function):
    """``sum (s - t)^2``; the difference is computed block by block in both passes instead of being stored."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        ctx.save_for_backward(student, teacher)
        total = student.new_zeros((), dtype=sum_dtype(student))
        for s, t in _blocks(student, teacher):
            total += (s - t).square_().sum()
        return total.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        student, teacher = ctx.saved_tensors
        grad, scale = torch.empty_like(student), 2 * grad_output
        for s, t, g in _blocks(student, teacher, grad):
            torch.sub(s, t, out=g).mul_(scale)
        return grad, None


def _blocks(x: Tensor, *others: Tensor) -> Iterator[list[Tensor]]:
    tensors = [y.reshape(-1, 1) if y.ndim < 2 else y for y in (x, *others)]
    outer, inner = tensors[0].shape[:2]
    for index in tiles(outer, inner, math.prod(tensors[0].shape[2:]), block_elements(x.device)):
        yield [y[index] for y in tensors]
