"""Losses of detection: FGD, localisation (LD), feature richness (FRS), objects apart from background (DeFeat), one
head behind both networks (CrossKD), one set of queries for both decoders (KD-DETR).
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.divergence import divergence_sum
from mmdistill_dense.losses.tensors import (
    block_elements,
    cast_pair,
    check_same_shape,
    check_shape,
    loss_dtype,
    sum_dtype,
    tiles,
    wants_gradient,
    with_gradients,
    without_autocast,
)

_CHUNK = 64  # boxes painted at once


def box_weights(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return for each cell (..., H, W) the inverse area of the smallest box that covers it, 0 outside all boxes.

    The boxes are (..., R, 4) as x1, y1, x2, y2 in cells. A box covers the columns from ``floor(x1)`` to ``ceil(x2)``,
    both included, and its rows likewise; its area is the number of these cells, also those outside the map (FGD, eq. 5;
    the inclusive end and the area as released).
    """
    left, top = boxes[..., :2].floor().unbind(-1)
    right, bottom = boxes[..., 2:].ceil().unbind(-1)
    inverse = 1 / ((bottom - top + 1) * (right - left + 1))
    rows, columns = (torch.arange(n, device=boxes.device) for n in (height, width))
    in_rows = (rows >= top[..., None]) & (rows <= bottom[..., None])
    in_columns = ((columns >= left[..., None]) & (columns <= right[..., None])) * inverse[..., None]
    painted = boxes.new_zeros(*boxes.shape[:-2], height, width)
    for r, c in zip(in_rows.split(_CHUNK, -2), in_columns.split(_CHUNK, -2), strict=True):
        if r.numel():
            painted = torch.maximum(painted, (r[..., None] * c[..., None, :]).amax(-3))
    return painted


def covered_cells(boxes: Tensor, height: int, width: int, chosen: Tensor | None = None) -> Tensor:
    """Return which cells of a map boxes cover, (H, W) of 1 and 0, for (R, 4) boxes as x1, y1, x2, y2 in cells.

    A box covers the columns from ``int(x1)`` up to, but without, ``int(x2)``, and its rows likewise. If that leaves
    none on an axis, it covers the cell of its first corner alone (DeFeat, as released). Boxes that are not ``chosen``,
    (R,) bool, cover nothing.
    """
    left, top, right, bottom = boxes.trunc().unbind(1)
    axes = ((top, bottom, height), (left, right, width))
    thin = torch.stack([end.clamp_max(cells) <= begin.clamp_min(0) for begin, end, cells in axes]).any(0)
    inside = []
    for begin, end, cells in axes:
        start = begin.clamp(0, cells - 1)
        index, stop = torch.arange(cells, device=boxes.device), torch.where(thin, start + 1, end)
        inside.append((index >= start[:, None]) & (index < stop[:, None]))
    rows, columns = inside[0] if chosen is None else inside[0] & chosen[:, None], inside[1]
    counts = rows.to(boxes.dtype).mT @ columns.to(boxes.dtype)  # of the boxes over each cell
    return (counts > 0).to(boxes.dtype)


def background_weights(foreground: Tensor) -> Tensor:
    """Weight each cell outside all boxes, 0 in (B, H, W), by one over their number in its picture (FGD, eq. 6)."""
    outside = (foreground == 0).to(foreground.dtype)
    return outside / outside.sum((1, 2), keepdim=True).clamp_min(1)


@without_autocast
def spatial_attention(x: Tensor, temperature: float) -> Tensor:
    """``H W softmax(mean_c |x| / T)`` over the positions of (B, C, H, W) maps: (B, H, W) of mean 1 (FGD, eq. 3, 8)."""
    batch, _, height, width = x.shape
    size = x.to(loss_dtype(x)).abs().mean(1)
    return height * width * (size.flatten(1) / temperature).softmax(1).view(batch, height, width)  # (B, H, W)


@without_autocast
def channel_attention(x: Tensor, temperature: float) -> Tensor:
    """``C softmax(mean_hw |x| / T)`` over the channels of (B, C, H, W) maps: (B, C) of mean 1 (FGD, eq. 4, 9)."""
    size = x.to(loss_dtype(x)).abs().sum((2, 3)) / max(x.shape[2] * x.shape[3], 1)
    return x.shape[1] * (size / temperature).softmax(1)


@without_autocast
def absolute_error(student: Tensor, teacher: Tensor) -> Tensor:
    """``sum |student - teacher| / B`` of one kind of attention, (B, ...) (FGD, eq. 13)."""
    s, t = cast_pair(student, teacher, 'attention')
    return (s - t).abs().sum() / max(len(s), 1)


@without_autocast
def focal_error(student: Tensor, teacher: Tensor, position: Tensor, channel: Tensor) -> Tensor:
    """``sum_{b,h,w} position[b, h, w] sum_c channel[b, c] (student - teacher)^2 / B`` of maps (FGD, eq. 11)."""
    s, t = cast_pair(student, teacher)
    check_shape('position', position, (len(s), *s.shape[2:]))
    check_shape('channel', channel, s.shape[:2])
    squares = (s - t).square().flatten(2)  # (B, C, H*W)
    per_channel = torch.bmm(squares, position.detach().to(s.dtype).flatten(1)[..., None])[..., 0]  # (B, C)
    return (per_channel * channel.detach().to(s.dtype)).sum() / max(len(s), 1)


@without_autocast
def shifted_error(student: Tensor, teacher: Tensor, shift: Tensor) -> Tensor:
    """``sum (student - teacher + shift[b, c])^2 / B`` of (B, C, H, W) maps, without a shifted map (FGD, eq. 14).

    Student and shift get a gradient.
    """
    s, t = cast_pair(student, teacher)
    check_shape('shift', shift, s.shape[:2])
    shift, positions = shift.to(s.dtype), s.shape[2] * s.shape[3]
    if not s.numel():
        return s.sum() + 0 * shift.sum()
    variance, mean = torch.var_mean(s - t, dim=(2, 3), correction=0)
    return positions * (variance + (mean + shift).square()).sum() / max(len(s), 1)


_EPS = 1e-6  # of areas, as mmdet's overlaps


@without_autocast
def weighted_divergence(student: Tensor, teacher: Tensor, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``T^2 sum_r w_r mean_k p_t (log p_t - log p_s)`` with ``p = softmax(z / T)`` over the last dimension.

    The mean over k, in place of a sum, is that of the released LD and of mmdet.

    Source: Zheng et al., LD, CVPR 2022, https://arxiv.org/abs/2102.12252, eq. 3 and 5.

    Args:
        student, teacher: (..., K) logits.
        weight: (...) one number per row.
        temperature: T, above 0.
    """
    student, teacher = cast_pair(student, teacher, 'logits')
    check_shape('weight', weight, student.shape[:-1])
    if not student.numel():
        return student.sum()
    values = student.shape[-1]
    # few values per row: maxima are far faster across the rows
    s, t = (x.reshape(1, -1, values).mT for x in (student, teacher))  # (1, K, R)
    weights = weight.detach().to(s.dtype).reshape(1, -1)  # (1, R)
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
    a, b = anchors[:, None], boxes[None]
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b))
    iou = inner / (area_a + area_b - inner).clamp_min(_EPS)  # (A, R), as all below
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    distances = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2).square().sum(-1)
    measure = inner / area_a.clamp_min(_EPS) - distances / outer.square().sum(-1).clamp_min(_EPS)
    sizes = [*level_sizes]
    levels = zip(accumulate(sizes, initial=0), distances.sqrt().split(sizes), strict=False)
    near = [begin + level.topk(min(topk, len(level)), dim=0, largest=False).indices for begin, level in levels]
    overlaps = iou.gather(0, torch.cat(near))  # (levels*topk, R)
    threshold = overlaps.mean(0) + overlaps.std(0, correction=min(1, len(overlaps) - 1))  # one anchor has deviation 0
    valuable = (measure < threshold) & (measure >= ratio * threshold)
    return torch.where(valuable, iou, 0.0).amax(1)


@without_autocast
def feature_richness(scores: Tensor) -> Tensor:
    """``max_k sigmoid(Z_t)`` of the teacher's logits (B, A K, H, W): its highest probability at each place.

    Source: Du et al., FRS, NeurIPS 2021, https://arxiv.org/abs/2111.00674.
    """
    return scores.detach().to(loss_dtype(scores)).amax(1).sigmoid()


@without_autocast
def rich_squares(student: Tensor, teacher: Tensor, richness: Tensor, total: Tensor | None = None) -> Tensor:
    """``sum_{b,c,h,w} M (F_t - F_s)^2 / sum M`` of (B, C, H, W) maps and a richness M (B, H, W) (FRS).

    ``total`` is what to divide by in place of ``sum M``.
    """
    s, t = cast_pair(student, teacher)
    return _weighted_mean((s - t).square().sum(1), richness, total)


@without_autocast
def rich_entropy(student: Tensor, teacher: Tensor, richness: Tensor, total: Tensor | None = None) -> Tensor:
    """``sum_{b,k,h,w} M BCE(sigmoid Z_s, sigmoid Z_t) / sum M`` of logits (B, A K, H, W) and a richness M (FRS).

    ``y softplus(-z) + (1 - y) softplus(z)``: exact for large logits, also those of the wrong sign. ``total`` is what to
    divide by in place of ``sum M``.
    """
    z, t = cast_pair(student, teacher, 'logits')
    entropy = t.sigmoid() * F.softplus(-z) + (-t).sigmoid() * F.softplus(z)
    return _weighted_mean(entropy.sum(1), richness, total)


@without_autocast
def decoupled_squares(student: Tensor, teacher: Tensor, mask: Tensor, totals: Tensor | None = None) -> Tensor:
    """``sum_{b,c,h,w} m (F_s - F_t)^2 / (2 C sum m)`` of (B, C, H, W) maps and a mask m (B, H, W) of 0 and 1, and the
    same of ``1 - m``: (2,), 0 without such cells (DeFeat).

    ``totals``, (2,), is what to divide by in place of ``sum m`` and ``sum (1 - m)``.

    Source: Guo et al., DeFeat, CVPR 2021, https://arxiv.org/abs/2103.14475, as released.
    """
    s, t = cast_pair(student, teacher)
    squares = (s - t).square().sum(1) / (2 * max(s.shape[1], 1))
    masks = torch.stack([mask, 1 - mask]).detach().to(s.dtype)
    counts = masks.sum((1, 2, 3)) if totals is None else totals.detach().to(s.dtype)
    # the masks are divided, not the sums: 0 / tiny has a gradient of 1 / tiny
    shares = masks / counts.clamp_min(torch.finfo(s.dtype).tiny)[:, None, None, None]
    return (squares * shares).sum((1, 2, 3))


@without_autocast
def query_terms(
    student_scores: Tensor,
    student_boxes: Tensor,
    scores: Tensor,
    boxes: Tensor,
    *,
    temperature: float = 10.0,
    mean: bool = False,
    total: Tensor | None = None,
) -> Tensor:
    """Return KD-DETR's terms for the answers of two decoders to the same M queries, (3,): classes, boxes and GIoU.

    With ``w = max_k sigmoid(Z_t)``, over the student's L layers, B pictures and M queries::

        sum_{l,b,m} w T^2 mean_k KL(softmax Z_t / T || softmax Z_s / T),    divided by sum w if ``mean``
        sum_{l,b,m} w mean_4 |b_s - b_t| / sum w
        sum_{l,b,m} w (1 - GIoU(b_s, b_t)) / sum w

    Source: Wang et al., KD-DETR, CVPR 2024, https://arxiv.org/abs/2211.08071, as released.

    Args:
        student_scores, student_boxes: (L, B, M, K) logits and (L, B, M, 4) boxes as cx, cy, w, h.
        scores, boxes: (B, M, K) and (B, M, 4), the teacher's.
        temperature: T, above 0.
        mean: Divide the first term as the others.
        total: What to divide by in place of ``sum w``.
    """
    dtype = loss_dtype(student_scores)
    scores, boxes = (x.detach().to(dtype).expand(len(student_scores), *x.shape) for x in (scores, boxes))
    check_same_shape(student_scores, scores, kind='logits')
    check_same_shape(student_boxes, boxes, kind='boxes')
    weight = scores.amax(-1).sigmoid()
    predicted = student_boxes.to(dtype)
    whole = weight[:1].sum() if total is None else total.detach().to(dtype)
    share = weight / whole.clamp_min(torch.finfo(dtype).tiny)
    divergence = _divergence_by_differences(student_scores.to(dtype), scores, temperature)
    classes = temperature**2 * ((share if mean else weight) * divergence).sum() / scores.shape[-1]
    distance = (share * (predicted - boxes).abs().mean(-1)).sum()
    return torch.stack([classes, distance, (share * (1 - _giou(predicted, boxes))).sum()])


def _divergence_by_differences(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``KL(softmax(teacher / T) || softmax(student / T))`` of each row, exact for rows that hardly differ.

    ``log sum p_t exp(d)``, with the differences ``d`` of the logits less their mean under ``p_t``.
    """
    logs = (teacher / temperature).log_softmax(-1)
    p, d = logs.exp(), (student - teacher) / temperature
    d = d - (p * d).sum(-1, keepdim=True)
    near = torch.log1p((p * d.clamp_max(1).expm1()).sum(-1).clamp_min(0))
    return torch.where(d.detach().amax(-1) < 1, near, (logs + d).logsumexp(-1))


def _giou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalised IoU of boxes (..., 4) as cx, cy, w, h."""
    tiny = torch.finfo(a.dtype).tiny
    (low_a, high_a), (low_b, high_b) = ((x[..., :2] - x[..., 2:] / 2, x[..., :2] + x[..., 2:] / 2) for x in (a, b))
    inner = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp_min(0).prod(-1)
    hull = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - inner
    return inner / union.clamp_min(tiny) - (hull - union) / hull.clamp_min(tiny)


def _weighted_mean(values: Tensor, weight: Tensor, total: Tensor | None) -> Tensor:
    weight = weight.detach().to(values.dtype)
    whole = weight.sum() if total is None else total.detach().to(values.dtype)
    return (values * weight).sum() / whole.clamp_min(torch.finfo(values.dtype).tiny)  # 0 without pictures


@without_autocast
def channel_moments(x: Tensor) -> Tensor:
    """Return for each channel of a map (B, C, H, W) the number of its values, their mean, and the sum of their squared
    deviations, which is exactly 0 where all are equal: (3, C).
    """
    x = x.to(loss_dtype(x))
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    least = x.detach().amin((0, 2, 3))
    flat = least == x.detach().amax((0, 2, 3))
    count = torch.full_like(mean, x.numel() // x.shape[1])
    return torch.stack([count, torch.where(flat, mean - mean.detach() + least, mean), (variance * count) * ~flat])


@without_autocast
def aligned_scale(x: Tensor, student: Tensor, teacher: Tensor, *, eps: float = 1e-6) -> Tensor:
    """``(x - mean_s) / (std_s + eps) std_t + mean_t`` of a student's map (B, C, H, W) by channel; std of ``n - 1``.

    ``student`` and ``teacher`` are (R, 3, C), the :func:`channel_moments` of both maps in the R processes that count.
    A constant channel of the student becomes ``mean_t`` without a gradient (ours; as released it is ``std_t / eps``).

    Source: Wang et al., CrossKD, CVPR 2024, https://arxiv.org/abs/2306.11369.
    """
    (mean_s, std_s, flat), (mean_t, std_t, _) = (_total_moments(moments) for moments in (student, teacher.detach()))
    gain = torch.where(flat, 0, std_t / (std_s + eps))
    shift = torch.where(flat, mean_t, mean_t - gain * mean_s)
    return torch.addcmul(shift[:, None, None], x.to(gain.dtype), gain[:, None, None])


def _total_moments(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and deviation of each channel, (C,), and which are constant, from the moments of R processes."""
    count, mean, squares = moments.unbind(1)
    whole = count.sum(0)
    centre = (count * mean).sum(0) / whole
    flat = ((squares == 0) & (mean == mean[:1])).all(0)
    total = (squares + count * (mean - centre).square()).sum(0)
    deviation = (total.masked_fill(flat, 1) / (whole - 1).clamp_min(1)).sqrt()  # the root of 0 has no gradient
    return centre, deviation.masked_fill(flat, 0), flat


@without_autocast
def focal_entropy(student: Tensor, teacher: Tensor, weight: Tensor, *, beta: float = 1.0) -> Tensor:
    """``sum_r w_r sum_k BCE(p, y) |p - y|^beta`` with ``p = sigmoid z_s``, ``y = sigmoid z_t``, of logits (B, K, ...)
    and the weights (B, ...) of their rows.

    The gradient, also that of the factor, is computed in the forward pass, block by block.

    Source: Wang et al., CrossKD, CVPR 2024, https://arxiv.org/abs/2306.11369.
    """
    student, teacher = cast_pair(student, teacher, 'logits')
    if weight.shape != student.shape[:1] + student.shape[2:]:
        raise ValueError(f'weight must be {tuple(student.shape)} without its axis 1, got {tuple(weight.shape)}')
    if not student.numel():
        return student.sum()
    s, t = (x.reshape(*x.shape[:2], -1) for x in (student, teacher))  # (B, K, N)
    weight = weight.detach().to(s.dtype).reshape(len(s), 1, -1)  # (B, 1, N)
    grad = torch.empty_like(s) if wants_gradient(s) else None
    total = s.new_zeros((), dtype=sum_dtype(s))
    with torch.no_grad():
        for b, n in tiles(s.shape[0], s.shape[2], s.shape[1], block_elements(s.device) // 4):
            z, target, w = s[b, :, n], t[b, :, n], weight[b, :, n]
            y = target.sigmoid()
            entropy = (F.logsigmoid(z).mul_(y)).add_(F.logsigmoid(-z).mul_((-target).sigmoid())).neg_().mul_(w)
            p = z.sigmoid()
            distance = p - y
            size = distance.abs()
            factor = size.pow(beta)
            total += torch.sum(entropy * factor)
            if grad is not None:  # d |d|^beta + BCE beta |d|^(beta - 1) sign(d) p (1 - p), d = p - y
                steep = entropy.mul_(size.clamp_min_(torch.finfo(s.dtype).tiny).pow_(beta - 1)).mul_(beta)
                steep.mul_(distance.sign()).mul_(p).mul_((-z).sigmoid())
                grad[b, :, n] = distance.mul_(factor).mul_(w).add_(steep)
    return with_gradients(total.to(s.dtype), (s, grad))
