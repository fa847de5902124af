"""Divergence of each channel's distribution over the positions (CWD)."""

from torch import Tensor

from mmdistill_dense.losses.kl import divergence_sum
from mmdistill_dense.losses.precision import check_same_shape, check_temperature, loss_dtype, without_autocast


@without_autocast
def channel_divergence(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))`` over the positions, mean over batch and channels.

    Each channel of each image is a distribution over its positions.

    Source: Shu et al., CWD, ICCV 2021, https://arxiv.org/abs/2011.13256, section 3.2.

    Args:
        student: (B, C, ...) maps, the only input that gets a gradient.
        teacher: Maps of the same shape.
        temperature: T, above 0.

    Returns:
        Scalar in float32 (float64 for float64 maps); 0 where there are no pictures or no positions.

    Raises:
        ValueError: Unequal shapes, no axis of positions or a temperature that is not positive.
    """
    check_temperature(temperature)
    check_same_shape(student, teacher)
    if student.dim() < 3:
        raise ValueError(f'maps must be (B, C, ...) with at least one axis of positions, got {tuple(student.shape)}')
    dtype = loss_dtype(student)
    if not student.numel():
        return student.to(dtype).sum()
    s, t = (x.to(dtype).flatten(2) for x in (student, teacher))
    divergence = divergence_sum(s, t, 2, temperature)
    return divergence * (temperature**2 / (len(student) * student.shape[1]))
