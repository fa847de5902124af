"""Divergences between the class scores of student and teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.kl import divergence_sum
from mmdistill_dense.losses.precision import check_same_shape, check_temperature, loss_dtype, without_autocast


@without_autocast
def softmax_divergence(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))`` over the classes, mean over batch and positions.

    Source: Hinton et al., 2015, https://arxiv.org/abs/1503.02531; per pixel as in structured distillation (SKD) and its
    successors.

    Args:
        student: (B, C, ...) logits, the only input that gets a gradient.
        teacher: Logits of the same shape.
        temperature: T, above 0.

    Returns:
        Scalar in float32 (float64 for float64 logits); 0 where there are no positions.

    Raises:
        ValueError: Unequal shapes or a temperature that is not positive.
    """
    student, teacher = _prepare(student, teacher, temperature)
    if not student.numel():
        return student.sum()
    s, t = (x.reshape(*x.shape[:2], -1) for x in (student, teacher))  # (B, C, N), N = 1 for rows
    divergence = divergence_sum(s, t, 1, temperature)
    return divergence * (temperature**2 * student.shape[1] / student.numel())


@without_autocast
def sigmoid_divergence(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``T^2 * KL`` of independent binary scores ``sigmoid(x / T)``, summed over the channels, mean over the positions.

    The counterpart of :func:`softmax_divergence` for heads with one binary classifier per class.

    Args:
        student: (B, C, ...) logits, e.g. anchors x classes of a dense detection head.
        teacher: Logits of the same shape.
        temperature: T, above 0.

    Returns:
        Scalar in float32 (float64 for float64 logits); 0 where there are no positions.

    Raises:
        ValueError: Unequal shapes or a temperature that is not positive.
    """
    student, teacher = _prepare(student, teacher, temperature)
    if not student.numel():
        return student.sum()
    student, teacher = student / temperature, teacher / temperature
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return torch.sum(yes + no) * (temperature**2 * student.shape[1] / student.numel())


def _prepare(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    check_temperature(temperature)
    check_same_shape(student, teacher, what='logits')
    dtype = loss_dtype(student)
    return student.to(dtype), teacher.detach().to(dtype)
