"""Distance of two maps position by position: directions, smooth L1, squares (FeatureMatch)."""

import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.infonce import normalize_pixels
from mmdistill_dense.losses.precision import check_same_shape, loss_dtype, without_autocast
from mmdistill_dense.losses.resize import mean_weight


@without_autocast
def feature_match(
    student: Tensor,
    teacher: Tensor,
    *,
    cosine: float = 0.5,
    smooth_l1: float = 0.5,
    mse: float = 0.0,
    inside: Tensor | None = None,
) -> Tensor:
    """``mean_b mean_p [a (1 - cos(s_bp, t_bp)) + b mean_c huber(s_bpc - t_bpc) + c mean_c (s_bpc - t_bpc)^2]``.

    ``huber(d) = d^2 / 2`` where ``|d| < 1``, else ``|d| - 1/2``. A position where one of the vectors is not longer than
    1e-6 has no direction and no part in the first term.

    Source: the distances of UNIC, https://arxiv.org/abs/2408.05088, and DUNE, https://arxiv.org/abs/2503.14405, which
    weigh cosine and smooth L1 equally.

    Args:
        student: (B, C, H, W) map, the only input that gets a gradient.
        teacher: Map of the same shape.
        cosine, smooth_l1, mse: a, b and c, at least 0.
        inside: (B, H, W) bool, the positions p inside the pictures. Defaults to all.

    Returns:
        Scalar in float32 (float64 for float64 maps). A picture without a position counts as 0.

    Raises:
        ValueError: Unequal shapes, or tensors that are no maps.
    """
    check_same_shape(student, teacher)
    weight = mean_weight(student, inside)
    student, teacher = (x.to(loss_dtype(x)) for x in (student, teacher.detach()))
    total = student.new_zeros(())
    if cosine:
        (s, s_weight), (t, t_weight) = (normalize_pixels(x, inside) for x in (student, teacher))
        apart = (s - t).square().sum(1) / 2  # 1 - cos, without cancellation
        total = total + cosine * (apart * s_weight * t_weight * weight.flatten()).sum()
    for factor, distance in ((smooth_l1, F.smooth_l1_loss), (mse, F.mse_loss)):
        if factor and inside is None and student.numel():
            total = total + factor * distance(student, teacher)  # the same mean without a map in between
        elif factor:
            total = total + factor * (distance(student, teacher, reduction='none').mean(1).flatten(1) * weight).sum()
    return total
