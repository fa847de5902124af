"""Squared error of maps with standardised channels, which is Pearson's correlation of features (PKD)."""

import torch
from torch import Tensor

from mmdistill_dense.losses.precision import check_same_shape, loss_dtype, without_autocast


@without_autocast
def standardized_mse(student: Tensor, teacher: Tensor, *, eps: float = 1e-6) -> Tensor:
    """``mean (z(student) - z(teacher))^2 / 2`` with ``z(x) = (x - mean) / (std + eps)`` per channel, over all else.

    With n values a channel and the unbiased deviation this is ``(1 - r) (n - 1) / n``, averaged over the channels,
    where ``r`` is Pearson's correlation of the channel (exactly so for ``eps = 0``): the scale and the offset of a
    channel do not matter. It is computed from the moments of the centred maps; no standardised map is made.

    A channel counts as constant on a side where its deviation is at most ``eps``, or within rounding of its mean: its
    centred values are taken as 0 there. A constant channel of the student gets no gradient (the formula's would be
    ``z(teacher) / (n eps)``, a million times that of other channels); above, the gradient grows as 1 / deviation.

    Source: Cao et al., PKD, NeurIPS 2022, https://arxiv.org/abs/2207.02039, eq. 3 to 5.

    Args:
        student: (B, C, ...) map, the only input that gets a gradient.
        teacher: Map of the same shape.
        eps: Added to the deviations, above 0; a channel that is constant on one side has a loss of
            ``(n - 1) / 2n``, one that is on both has none.

    Returns:
        Scalar in float32 (float64 for float64 maps); 0 for channels of one value.

    Raises:
        ValueError: Unequal shapes or eps that is not positive.
    """
    if not eps > 0:
        raise ValueError(f'eps must be above 0, got {eps}')
    check_same_shape(student, teacher)
    dtype = loss_dtype(student)
    (s, s_floor), (t, t_floor) = (_centred(x.to(dtype), eps) for x in (student, teacher.detach()))
    values = _values(student)
    bessel = values / max(values - 1, 1)
    s_square, t_square, product = (_channel_means(x) for x in (s.square(), t.square(), s * t))
    s_flat, t_flat = s_square <= s_floor.square(), t_square <= t_floor.square()
    s_square, t_square = s_square.masked_fill(s_flat, 0), t_square.masked_fill(t_flat, 0)
    product = product.masked_fill(s_flat | t_flat, 0)
    s_scale, t_scale = (_deviation(square * bessel) + eps for square in (s_square, t_square))
    squares = s_square / s_scale.square() + t_square / t_scale.square()
    return (squares / 2 - product / (s_scale * t_scale)).sum() / max(student.shape[1], 1)


def _values(x: Tensor) -> int:
    return max(x.numel() // max(x.shape[1], 1), 1)


def _channel_means(x: Tensor, keepdim: bool = False) -> Tensor:
    return x.sum([dim for dim in range(x.ndim) if dim != 1], keepdim=keepdim) / _values(x)


def _centred(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the centred map and, per channel, the largest deviation that still counts as constant."""
    mean = _channel_means(x, keepdim=True)
    rounding = 4 * torch.finfo(x.dtype).eps
    return x - mean, (eps + rounding * mean.detach().abs()).flatten()


def _deviation(variance: Tensor) -> Tensor:
    """Return the square root, with a gradient of 0 at 0."""
    constant = variance == 0
    return torch.where(constant, 0.0, torch.where(constant, 1.0, variance).sqrt())
