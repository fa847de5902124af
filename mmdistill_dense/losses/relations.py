"""Relations within a picture: pairs of positions (SKD), class prototypes (IFVD), a read of the teacher (CanKD)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.infonce import MIN_NORM
from mmdistill_dense.losses.tensors import cast_pair, check_same_grid, loss_dtype, without_autocast


@without_autocast
def pairwise_distance(student: Tensor, teacher: Tensor, *, through_norm: bool = True) -> Tensor:
    """``mean (a_s - a_t)^2`` over the images and all pairs of their positions; ``a`` is the cosine of two positions.

    With few channels the N x N similarities are never made: for unit columns S, T (C, N) it is
    ``|| S^T S - T^T T ||^2 = || S S^T ||^2 + || T T^T ||^2 - 2 || S T^T ||^2``, exact to about 1e-6 of the mean squared
    similarity. The form with the smaller matrices is used.

    Source: Liu et al., SKD, CVPR 2019, https://arxiv.org/abs/1903.04197, pair-wise loss.

    Args:
        student, teacher: (B, C_s, H, W) and (B, C_t, H, W) maps. A position of zeros has similarity 0 to all.
        through_norm: Whether the gradient passes through the norms of the student's positions. The authors' code stops
            it there.
    """
    check_same_grid(student, teacher)
    maps = (x.to(loss_dtype(x)).flatten(2) for x in (student, teacher.detach()))  # (B, C, N)
    s, t = (x * inverse_norms(x if through_norm else x.detach()) for x in maps)  # (B, C, N) each
    nodes, (c_s, c_t) = s.shape[2], (s.shape[1], t.shape[1])
    if nodes**2 <= c_s**2 + c_t**2 + c_s * c_t:
        total = (torch.bmm(s.mT, s) - torch.bmm(t.mT, t)).square().sum()
    else:
        squares = [torch.bmm(x, y.mT).square().sum() for x, y in ((s, s), (t, t), (s, t))]
        total = squares[0] + squares[1] - 2 * squares[2]
    return total / max(len(s) * nodes**2, 1)


def inverse_norms(x: Tensor) -> Tensor:
    """Return the inverse L2 norm over the channels of (B, C, N) positions: (B, 1, N).

    Positions of a norm of 1e-6 and less have no direction: 0, without gradient.
    """
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return norms.clamp_min(MIN_NORM).reciprocal().masked_fill(norms <= MIN_NORM, 0)


@without_autocast
def prototype_distance(student: Tensor, teacher: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    """``mean (m_s - m_t)^2`` over batch and positions; ``m`` is the cosine of a position to the mean of its class.

    The prototype of a class is the mean of its positions in one image, separate for student and teacher. Positions
    without a class add nothing and count in the mean, as in the released code.

    Source: Wang et al., IFVD, ECCV 2020,
    https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/230_ECCV_2020_paper.php.

    Args:
        student, teacher: (B, C_s, H, W) and (B, C_t, H, W) maps.
        labels: (B, H, W) int64; values outside 0 … num_classes - 1 are no class.
        num_classes: Number of classes; the cost is proportional to it.
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
    maps = x.to(loss_dtype(x)).flatten(2).masked_fill(slots == num_classes, 0)  # (B, C, N)
    members = maps.new_zeros(len(x), num_classes + 1, slots.shape[2]).scatter_(1, slots, 1)
    prototypes = F.normalize(torch.bmm(maps, members.mT), dim=1, eps=MIN_NORM)  # (B, C, K + 1); sums point as means do
    return torch.bmm(prototypes.mT, maps).gather(1, slots) * inverse_norms(maps)


@without_autocast
def linear_read(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``x_m = mean_n (q_m . k_n) v_n``: attention without softmax, so ``k`` and ``v`` are multiplied first (D x D).

    Source: the non-local block of CanKD, https://arxiv.org/abs/2511.21503.

    Args:
        query: (B, D, H, W).
        key, value: (B, D, h, w), h * w >= 1.

    Returns:
        (B, D, H, W), in float32 (float64 for float64 maps).
    """
    q, k, v = (x.to(loss_dtype(x)).flatten(2) for x in (query, key, value))  # (B, D, N)
    return ((v @ k.mT / k.shape[2]) @ q).view_as(query)


@without_autocast
def instance_distance(student: Tensor, teacher: Tensor, *, eps: float = 1e-5) -> Tensor:
    """``mean (n(s) - n(t))^2`` over all elements; ``n`` standardises each channel of a picture over its positions.

    Source: CanKD, https://arxiv.org/abs/2511.21503.

    Args:
        student, teacher: (B, C, H, W) maps.
        eps: Is added to the variance.
    """
    student, teacher = cast_pair(student, teacher)
    if not student.numel():
        return student.sum()
    # twice: the rounding of a large mean is as large as small differences
    student, teacher = (x - x.detach().mean((2, 3), keepdim=True) for x in (student, teacher))
    s, t = (
        (x - x.mean((2, 3), keepdim=True)) * (x.var((2, 3), correction=0, keepdim=True) + eps).rsqrt()
        for x in (student, teacher)
    )
    return (s - t).square().mean()
