"""Divergence of similarity distributions (CIRKD), loss and gradient in one pass over blocks of rows."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdistill_dense.losses.precision import check_temperature, loss_dtype, without_autocast

_BLOCK_BYTES = 16 * 2**20  # of one matrix of scores; about five are held at a time


@without_autocast
def similarity_divergence(
    student: Tensor,
    student_keys: Tensor,
    teacher: Tensor,
    teacher_keys: Tensor,
    *,
    temperature: float = 0.1,
    row_weight: Tensor | None = None,
    block: int | None = None,
) -> Tensor:
    """``sum_p w_p mean_g KL(softmax_k(t_p . t_gk / tau) || softmax_k(s_p . s_gk / tau))``.

    The similarities of a row to the K keys of a group are one distribution; each of the G groups has its own. Student
    and teacher may differ in channels.

    The gradients are computed in the forward pass, one block of rows at a time. They have the size of rows and keys; a
    matrix of all rows x keys is never stored.

    Source: Yang et al., CIRKD, CVPR 2022, https://arxiv.org/abs/2204.06986.

    Args:
        student: (N, C) rows.
        student_keys: (G, K, C). Rows and keys of the student are the only inputs that get a gradient.
        teacher: (N, D) rows.
        teacher_keys: (G, K, D).
        temperature: tau, above 0.
        row_weight: (N,) weights. Defaults to 1 / N.
        block: Rows compared at a time. Defaults to what fits 16 MiB of scores.

    Returns:
        Scalar in float32 (float64 for float64 rows); 0 where there are no rows or keys.

    Raises:
        ValueError: A temperature that is not positive, or shapes that do not fit.
    """
    check_temperature(temperature)
    _check_shapes(student, student_keys, teacher, teacher_keys)
    if row_weight is not None and row_weight.shape != student.shape[:1]:
        raise ValueError(f'row_weight must be ({len(student)},), got {tuple(row_weight.shape)}')
    dtype = loss_dtype(student)
    if row_weight is None:
        row_weight = student.new_full((len(student),), 1 / max(len(student), 1), dtype=dtype)
    if block is None:
        block = max(_BLOCK_BYTES // (dtype.itemsize * max(student_keys.shape[1], 1)), 1)
    constants = (x.detach().to(dtype) for x in (teacher, teacher_keys, row_weight))
    return _Divergence.apply(student.to(dtype), student_keys.to(dtype), *constants, temperature, block)


def _check_shapes(student: Tensor, student_keys: Tensor, teacher: Tensor, teacher_keys: Tensor) -> None:
    for side, rows, keys in (('student', student, student_keys), ('teacher', teacher, teacher_keys)):
        if rows.ndim != 2 or keys.ndim != 3 or rows.shape[1] != keys.shape[2]:
            raise ValueError(f'{side} rows must be (N, C) and keys (G, K, C), got {rows.shape} and {keys.shape}')
    if len(student) != len(teacher) or student_keys.shape[:2] != teacher_keys.shape[:2]:
        raise ValueError(
            f'student and teacher differ in rows or keys: {len(student)} rows with {tuple(student_keys.shape[:2])} '
            f'keys, {len(teacher)} with {tuple(teacher_keys.shape[:2])}'
        )


class _Divergence(torch.autograd.Function):
    """Weighted sum of the rows' divergences; the gradients are computed in the forward pass and scaled in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        student_keys: Tensor,
        teacher: Tensor,
        teacher_keys: Tensor,
        row_weight: Tensor,
        temperature: float,
        block: int,
    ) -> Tensor:
        of_rows, of_keys = (
            torch.zeros_like(x) if needed else None
            for x, needed in zip((student, student_keys), ctx.needs_input_grad, strict=False)
        )
        total = student.new_zeros(())
        weights = row_weight / max(len(student_keys), 1)
        for group, (s_keys, t_keys) in enumerate(zip(student_keys, teacher_keys, strict=True)):
            for start in range(0, len(student), block):
                part = slice(start, start + block)
                s = torch.log_softmax(student[part] @ s_keys.t() / temperature, 1)
                t = torch.log_softmax(teacher[part] @ t_keys.t() / temperature, 1)
                target = t.exp()
                total += torch.dot(weights[part], t.sub_(s).mul_(target).sum(1))
                if of_rows is None and of_keys is None:
                    continue
                slope = s.exp_().sub_(target).mul_((weights[part] / temperature)[:, None])
                if of_rows is not None:
                    of_rows[part].addmm_(slope, s_keys)
                if of_keys is not None:
                    of_keys[group].addmm_(slope.t(), student[part])
        ctx.save_for_backward(of_rows, of_keys)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        of_rows, of_keys = (None if saved is None else saved * grad_loss for saved in ctx.saved_tensors)
        return of_rows, of_keys, None, None, None, None, None
