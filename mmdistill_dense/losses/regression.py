"""Differences of regressed values: box deltas, point offsets."""

import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.precision import check_same_shape, loss_dtype, without_autocast


@without_autocast
def smooth_l1(student: Tensor, teacher: Tensor, *, beta: float = 1.0) -> Tensor:
    """``mean huber(student - teacher)`` over all elements; ``huber(d) = d^2 / (2 beta)`` where ``|d| < beta``, else
    ``|d| - beta / 2``.

    Source: Girshick, "Fast R-CNN", 2015, https://arxiv.org/abs/1504.08083, eq. 3, where beta = 1.

    Args:
        student: Values of any shape, the only input that gets a gradient.
        teacher: Values of the same shape.
        beta: Where the square ends; 0 gives the absolute difference (L1).

    Returns:
        Scalar in float32 (float64 for float64 values); 0 where there are no values.

    Raises:
        ValueError: Unequal shapes or a negative beta.
    """
    if beta < 0:
        raise ValueError(f'beta must be >= 0, got {beta}')
    check_same_shape(student, teacher, what='values')
    dtype = loss_dtype(student)
    total = F.smooth_l1_loss(student.to(dtype), teacher.detach().to(dtype), beta=beta, reduction='sum')
    return total / max(student.numel(), 1)
