"""Where a map has its energy: distance of normalised attention maps (AT)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.precision import check_same_grid, loss_dtype, without_autocast


@without_autocast
def attention_distance(student: Tensor, teacher: Tensor, *, power: float = 2.0, reduction: str = 'mean') -> Tensor:
    """``|| q_s / |q_s| - q_t / |q_t| ||^2`` of the attention maps ``q = sum_c |x_c|^power``, mean over the batch.

    Source: Zagoruyko & Komodakis, ICLR 2017, eq. 2, squared as in their code.

    Args:
        student: (B, C_s, ...) maps, the only input that gets a gradient.
        teacher: (B, C_t, ...) maps of the same batch and size; the channels may differ.
        power: How much strong activations count more, at least 1.
        reduction: ``'mean'`` divides by the number of positions too (the released form: the weight depends on the map's
            size); ``'sum'`` does not, and gives values from 0 to 2 at any size.

    Returns:
        Scalar in float32 (float64 for float64 maps).

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
    return distance / (s.numel() if reduction == 'mean' else len(s))


def _attention(x: Tensor, power: float) -> Tensor:
    # the norm's power in place of a sum of powers: nothing of the map's size is stored but the map
    norms = torch.linalg.vector_norm(x.to(loss_dtype(x)), ord=power, dim=1)
    return F.normalize(norms.flatten(1) ** power, dim=1)
