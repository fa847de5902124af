"""Localisation distillation (LD): divergence of weighted rows, and the valuable region around the positives."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmdistill_dense.losses.kl import divergence_sum
from mmdistill_dense.losses.precision import check_same_shape, check_temperature, loss_dtype, without_autocast

_EPS = 1e-6  # of areas, as mmdet's overlaps


@without_autocast
def weighted_divergence(student: Tensor, teacher: Tensor, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``T^2 sum_r w_r mean_k p_t (log p_t - log p_s)`` with ``p = softmax(z / T)`` over the last dimension.

    The mean over k, in place of a sum, is that of the released LD and of mmdet.

    Source: Zheng et al., LD, CVPR 2022, https://arxiv.org/abs/2102.12252, eq. 3 and 5.

    Args:
        student: (..., K) logits, the only input that gets a gradient.
        teacher: Logits of the same shape.
        weight: (...) one number per row.
        temperature: T, above 0.

    Returns:
        Scalar in float32 (float64 for float64 logits); 0 where there are no rows.

    Raises:
        ValueError: Unequal shapes, weights that are not one per row, or a temperature that is not positive.
    """
    check_temperature(temperature)
    check_same_shape(student, teacher, what='logits')
    if weight.shape != student.shape[:-1]:
        raise ValueError(f'weight must be {tuple(student.shape[:-1])}, one per row, got {tuple(weight.shape)}')
    dtype = loss_dtype(student)
    if not student.numel():
        return student.to(dtype).sum()
    values = student.shape[-1]
    # few values per row: maxima are far faster across the rows
    s, t = (x.to(dtype).reshape(1, -1, values).mT for x in (student, teacher))
    weights = weight.detach().to(dtype).reshape(1, -1)
    divergence = divergence_sum(s, t, 1, temperature, weights)
    return divergence * (temperature**2 / values)


def valuable_region(
    anchors: Tensor, boxes: Tensor, level_sizes: Sequence[int], *, topk: int = 9, ratio: float = 0.25
) -> Tensor:
    """Return the weights of the anchors in the valuable localisation region (VLR), which surrounds the positives.

    The threshold of a box is that of ATSS: mean plus deviation of the IoU of its ``topk`` nearest anchors of every
    level. An anchor is valuable for the box if ``overlap / area of the anchor - d^2 / c^2`` is below the threshold and
    at least ``ratio`` times the threshold, with the distance d of the centres and the diagonal c of the hull. Its
    weight is its highest IoU with such a box.

    Source: LD, CVPR 2022, https://arxiv.org/abs/2102.12252, section 3.3 and algorithm 1, as released. The paper uses
    the distance-IoU (overlap over union) and equal weights; the released code of the published results divides by the
    anchor's area and weights by IoU.

    Args:
        anchors: (A, 4) as x1, y1, x2, y2, level after level.
        boxes: (R, 4), R may be 0.
        level_sizes: Number of anchors of each level; they sum to A.
        topk: Anchors per level that define the threshold.
        ratio: Share of the threshold at which the region ends.

    Returns:
        (A,) in [0, 1], 0 outside the region.
    """
    if not len(boxes) or not len(anchors):
        return anchors.new_zeros(len(anchors))
    iou, measure, distance = _overlaps(anchors, boxes)
    near, begin = [], 0
    for size in level_sizes:
        indices = distance[begin : begin + size].topk(min(topk, size), dim=0, largest=False).indices
        near.append(indices + begin)
        begin += size
    overlaps = iou.gather(0, torch.cat(near))
    threshold = overlaps.mean(0) + overlaps.std(0, correction=min(1, len(overlaps) - 1))  # one anchor has deviation 0
    valuable = (measure < threshold) & (measure >= ratio * threshold)
    return torch.where(valuable, iou, 0.0).amax(1)


def _overlaps(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the IoU, the measure that defines the region, and the distance of the centres, each (A, R)."""
    a, b = anchors[:, None], boxes[None]
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b))
    iou = inner / (area_a + area_b - inner).clamp_min(_EPS)
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    between = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2).square().sum(-1)
    measure = inner / area_a.clamp_min(_EPS) - between / outer.square().sum(-1).clamp_min(_EPS)
    return iou, measure, between.sqrt()
