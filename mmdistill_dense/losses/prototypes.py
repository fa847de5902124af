"""Distance of the positions' cosines to the prototype of their class (IFVD)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.infonce import MIN_NORM
from mmdistill_dense.losses.pairwise import inverse_norms
from mmdistill_dense.losses.precision import check_same_grid, loss_dtype, without_autocast


@without_autocast
def prototype_distance(student: Tensor, teacher: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    """``mean (m_s - m_t)^2`` over batch and positions; ``m`` is the cosine of a position to the mean of its class.

    The prototype of a class is the mean of its positions in one image, separate for student and teacher. Positions
    without a class add nothing and count in the mean, as in the released code.

    Source: Wang et al., IFVD, ECCV 2020,
    https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/230_ECCV_2020_paper.php.

    Args:
        student: (B, C_s, H, W) maps, the only input that gets a gradient.
        teacher: (B, C_t, H, W) maps; the channels may differ.
        labels: (B, H, W) int64; values outside 0 … num_classes - 1 are no class.
        num_classes: Number of classes; the cost is proportional to it.

    Returns:
        Scalar in float32 (float64 for float64 maps); 0 where there are no pictures or no positions.

    Raises:
        ValueError: Maps or labels of unequal batch or size.
    """
    check_same_grid(student, teacher)
    if labels.shape != (len(student), *student.shape[2:]):
        raise ValueError(f'labels of shape {tuple(labels.shape)} do not fit maps of {tuple(student.shape)}')
    valid = (labels >= 0) & (labels < num_classes)
    slots = labels.where(valid, num_classes).flatten(1)[:, None]  # (B, 1, N); the last slot is for no class
    s, t = (_cosines(x, slots, num_classes) for x in (student, teacher.detach()))
    return (s - t).square().sum() / max(s.numel(), 1)


def _cosines(x: Tensor, slots: Tensor, num_classes: int) -> Tensor:
    """Cosine (B, 1, N) of each position to the prototype of its class, 0 where it has none."""
    # zeros have no direction; masking later would leave NaNs of these positions in the gradient
    maps = x.to(loss_dtype(x)).flatten(2).masked_fill(slots == num_classes, 0)
    members = maps.new_zeros(len(x), num_classes + 1, slots.shape[2]).scatter_(1, slots, 1)
    prototypes = F.normalize(torch.bmm(maps, members.mT), dim=1, eps=MIN_NORM)  # (B, C, K + 1); sums point as means do
    return torch.bmm(prototypes.mT, maps).gather(1, slots) * inverse_norms(maps)
