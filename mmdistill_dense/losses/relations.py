"""Relations within a picture: pairs of positions (SKD), class prototypes (IFVD), tokens, queries, a read of the teacher
(CanKD).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.divergence import divergence_sum
from mmdistill_dense.losses.infonce import MIN_NORM, normalize_pixels
from mmdistill_dense.losses.tensors import check_same_grid, check_same_shape, loss_dtype, mean_weight, without_autocast


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
    maps = (x.to(loss_dtype(x)).flatten(2) for x in (student, teacher.detach()))
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
    maps = x.to(loss_dtype(x)).flatten(2).masked_fill(slots == num_classes, 0)
    members = maps.new_zeros(len(x), num_classes + 1, slots.shape[2]).scatter_(1, slots, 1)
    prototypes = F.normalize(torch.bmm(maps, members.mT), dim=1, eps=MIN_NORM)  # (B, C, K + 1); sums point as means do
    return torch.bmm(prototypes.mT, maps).gather(1, slots) * inverse_norms(maps)


_NEVER = -1e4  # masking bias; -inf would hide a NaN


@without_autocast
def token_relations(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 0.07,
    diagonal: bool = True,
    rows: Tensor | None = None,
    inside: Tensor | None = None,
) -> Tensor:
    """``mean_b mean_m KL(softmax_n(t_bm . t_bn / tau) || softmax_n(s_bm . s_bn / tau))`` with unit vectors.

    A picture without a position counts as 0.

    Source: the local term of lightly-train's third distillation method; its documentation names no paper.

    Args:
        student, teacher: (B, C, H, W) and (B, D, H, W) maps.
        temperature: tau, above 0.
        diagonal: Whether the similarity of a vector to itself, which is 1, is one of a row's. It takes most of the mass
            where the vectors of a picture differ.
        rows: (M,) flat indices of the positions m. Defaults to all. Positions n are always all.
        inside: (B, H, W) bool, the positions inside the pictures; others are neither m nor n. Defaults to all.
    """
    check_same_grid(student, teacher)
    weight = mean_weight(student, inside, rows)
    batch = len(student)
    (s, _), (t, _) = (normalize_pixels(x, inside) for x in (student, teacher.detach()))
    s, t = (x.view(batch, student.shape[2:].numel(), x.shape[1]) for x in (s, t))
    scores_s, scores_t = (_scores(x, rows, inside, diagonal) for x in (s, t))
    if not scores_s.numel():
        return s.sum()
    return divergence_sum(scores_s, scores_t, 2, temperature, weight)


def _scores(x: Tensor, rows: Tensor | None, inside: Tensor | None, diagonal: bool) -> Tensor:
    """Return (B, M, N) similarities of unit vectors (B, N, C); those that do not count are far below -1."""
    every = torch.arange(x.shape[1], device=x.device)
    scores = (x if rows is None else x[:, rows]) @ x.mT
    if not diagonal:
        scores = scores + _NEVER * (every == (every if rows is None else rows)[:, None])
    return scores if inside is None else scores + _NEVER * ~inside.flatten(1)[:, None]


@without_autocast
def query_match(query: Tensor, value: Tensor, teacher: Tensor, *, inside: Tensor | None = None) -> Tensor:
    """``mean_b mean_m mean_c (x_bmc - t_bmc)^2`` with ``x_bm = sum_n softmax_n(q_bm . t_bn) v_bn``.

    The teacher's vectors are the keys as they are: no projection, one head, no division by the root of the channels. A
    picture without a position counts as 0.

    Source: query-based soft distillation of GKD, https://arxiv.org/abs/2603.02554, the term of the patches.

    Args:
        query, value: (B, D, H, W) queries and values made of the student's map; both get a gradient.
        teacher: (B, D, H, W) map, keys and target.
        inside: (B, H, W) bool, the positions inside the pictures; others are neither m nor n. Defaults to all.
    """
    check_same_shape(query, teacher)
    check_same_shape(value, teacher, what='values')
    weight = mean_weight(query, inside)
    if not query.numel():
        return (query.sum() + value.sum()).to(loss_dtype(query))
    q, v, t = (x.to(loss_dtype(x)).flatten(2).mT for x in (query, value, teacher.detach()))
    read = None
    if inside is not None:
        read = inside.flatten(1)
        read = (read | ~read.any(1, keepdim=True))[:, None, None]  # a softmax over nothing would be NaN
    x = F.scaled_dot_product_attention(q[:, None], t[:, None], v[:, None], read, scale=1.0)[:, 0]
    return ((x - t).square().mean(2) * weight).sum()


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
    q, k, v = (x.to(loss_dtype(x)).flatten(2) for x in (query, key, value))
    return ((v @ k.mT / k.shape[2]) @ q).view_as(query)


@without_autocast
def instance_distance(student: Tensor, teacher: Tensor, *, eps: float = 1e-5) -> Tensor:
    """``mean (n(s) - n(t))^2`` over all elements; ``n`` standardises each channel of a picture over its positions.

    Source: CanKD, https://arxiv.org/abs/2511.21503.

    Args:
        student, teacher: (B, C, H, W) maps.
        eps: Is added to the variance.
    """
    check_same_shape(student, teacher)
    if not student.numel():
        return student.sum().to(loss_dtype(student))
    student, teacher = (x.to(loss_dtype(x)) for x in (student, teacher.detach()))
    # twice: the rounding of a large mean is as large as small differences
    student, teacher = (x - x.detach().mean((2, 3), keepdim=True) for x in (student, teacher))
    s, t = (
        (x - x.mean((2, 3), keepdim=True)) * (x.var((2, 3), correction=0, keepdim=True) + eps).rsqrt()
        for x in (student, teacher)
    )
    return (s - t).square().mean()
