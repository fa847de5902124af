"""Feature mimicking: squared differences of two maps."""

import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.precision import check_same_shape, loss_dtype, without_autocast


@without_autocast
def feature_mimic(student: Tensor, teacher: Tensor, *, reduction: str = 'sum') -> Tensor:
    """``sum (student - teacher)^2`` over all elements, divided by the batch or by their number.

    Args:
        student: (B, ...) features, the only input that gets a gradient.
        teacher: Features of the same shape.
        reduction: ``'sum'`` divides by B (Af-DCD as released: the weight depends on the map's size); ``'mean'`` by the
            number of elements.

    Returns:
        Scalar in float32 (float64 for float64 features).

    Raises:
        ValueError: Unequal shapes or an unknown reduction.
    """
    if reduction not in ('sum', 'mean'):
        raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
    check_same_shape(student, teacher)
    dtype = loss_dtype(student)
    loss = F.mse_loss(student.to(dtype), teacher.detach().to(dtype), reduction=reduction)
    return loss / len(student) if reduction == 'sum' else loss
