"""Kullback-Leibler divergence of softmax distributions, loss and gradient in one pass over blocks."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdistill_dense.losses.blocks import block_elements, tiles
from mmdistill_dense.losses.precision import sum_dtype


def divergence_sum(
    student: Tensor, teacher: Tensor, dim: int, temperature: float, weight: Tensor | None = None
) -> Tensor:
    """``sum_r w_r KL(softmax(teacher_r / T) || softmax(student_r / T))`` of (A, P, Q) scores.

    The gradient ``w (p_s - p_t) / T`` is computed in the forward pass and kept; temporaries are as small as a block.

    Args:
        student: (A, P, Q), the only input that gets a gradient.
        teacher: The same shape and dtype.
        dim: 1 or 2, the axis of a distribution.
        temperature: T.
        weight: One number per distribution, (A, Q) or (A, P). Defaults to 1.

    Returns:
        Scalar.
    """
    student = student if torch.is_grad_enabled() else student.detach()
    return _Divergence.apply(student, teacher.detach(), dim, temperature, weight)


class _Divergence(torch.autograd.Function):
    """With ``d = (t - s) / T`` the divergence of a row is ``sum p_t d - (logsumexp t - logsumexp s)``.

    Both sides are shifted so that their largest score is 0: a constant between them would cancel in the difference,
    and cost digits of the loss.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, dim: int, temperature: float, weight: Tensor | None
    ) -> Tensor:
        grad = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        total = student.new_zeros((), dtype=sum_dtype(student))
        for index in _blocks(student, dim):
            s, t = (x[index].contiguous() / temperature for x in (student, teacher))
            p_s, p_t = s.softmax(dim), t.softmax(dim)  # cheaper than log_softmax and the exponential of it
            w = None if weight is None else weight[index[0], index[3 - dim]].unsqueeze(dim)
            shift = _shifted_logsumexp(p_t, dim).sub_(_shifted_logsumexp(p_s, dim))
            s, t = (x.sub_(x.amax(dim, keepdim=True)) for x in (s, t))
            total -= shift.sum() if w is None else (shift * w).sum()
            total += torch.dot(t.sub_(s).flatten(), (p_t if w is None else p_t * w).flatten())
            if grad is not None:
                torch.sub(p_s, p_t, out=grad[index])
                if w is not None:
                    grad[index] *= w
        if grad is not None:
            ctx.save_for_backward(grad)
            ctx.temperature = temperature
        return total.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * (grad_output / ctx.temperature), None, None, None, None


def _shifted_logsumexp(p: Tensor, dim: int) -> Tensor:
    """``logsumexp`` of scores whose largest is 0, from their softmax: its largest is ``exp(0) / sum exp``."""
    return p.amax(dim, keepdim=True).log_().neg_()


def _blocks(x: Tensor, dim: int) -> list[tuple[slice, slice, slice]]:
    everything, free = slice(None), 3 - dim
    cells = tiles(x.shape[0], x.shape[free], x.shape[dim], block_elements(x.device) // 4)
    return [(a, b, everything) if free == 1 else (a, everything, b) for a, b in cells]
