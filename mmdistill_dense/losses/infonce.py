"""Per-pixel InfoNCE against a queue of negatives (PCD), loss and gradient in one pass over the queue.

The gradient of a row is an attention read of the queue, ``sum_k softmax_k(s.q_k / tau) q_k``, and the loss needs the
logsumexp of the same scores: both come from one sweep in blocks with a running maximum, as in flash attention, and no
matrix of rows x negatives is ever kept.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.tensors import check_same_shape, check_shape, loss_dtype, wants_gradient, with_gradients

MIN_NORM = 1e-6  # shorter vectors count as zero

_BUFFER_BYTES = 16 * 2**20  # of scores held at a time
_COLUMNS = 256  # blocks are multiples of this: narrow or odd matrix products are slow


def pixel_info_nce(
    student: Tensor,
    teacher: Tensor,
    negatives: Tensor,
    temperature: float = 0.2,
    row_weight: Tensor | None = None,
    *,
    block: int | None = None,
) -> tuple[Tensor, Tensor]:
    """``sum_p w_p l_p`` with ``l_p = -log softmax([s_p.t_p, s_p.q_1, ..., s_p.q_K] / tau)[0]``.

    Source: Huang & Guo, "Pixel-Wise Contrastive Distillation", ICCV 2023, https://arxiv.org/abs/2211.00218.

    Args:
        student, teacher: (N, C) unit rows; the teacher's are the positives.
        negatives: (K, C) unit rows. K = 0 gives 0.
        temperature: tau.
        row_weight: (N,) weights. Defaults to 1 / N.
        block: Negatives held at a time. Defaults to what fits 16 MiB of scores.

    Returns:
        The loss, and (N,) ``l_p``, which carries no gradient.
    """
    check_same_shape(student, teacher, kind='rows')
    if negatives.ndim != 2 or student.ndim != 2 or negatives.shape[1] != student.shape[1]:
        shapes = f'{tuple(student.shape)} and {tuple(negatives.shape)}'
        raise ValueError(f'student must be (N, C) and negatives (K, C), got {shapes}')
    dtype, rows = loss_dtype(student), len(student)
    if row_weight is None:
        row_weight = student.new_full((rows,), 1 / max(rows, 1), dtype=dtype)
    check_shape('row_weight', row_weight, (rows,))
    if block is None:
        fitting = _BUFFER_BYTES // (dtype.itemsize * max(rows, 1))
        block = max(fitting // _COLUMNS, 1) * _COLUMNS
    student, teacher, negatives, row_weight = (x.to(dtype) for x in (student, teacher, negatives, row_weight))
    needs_grad = wants_gradient(student)
    with torch.no_grad(), torch.autocast(student.device.type, enabled=False):
        excess, mean_key = _sweep(student, negatives, 1 / temperature, block, needs_grad)
        # subtract the positive before the exponential: logsumexp - positive would lose the digits of a small loss
        excess -= torch.bmm(student[:, None], teacher[:, :, None]).flatten() / temperature  # (N,)
        per_pixel = torch.logaddexp(excess, torch.zeros_like(excess))
        if mean_key is not None:
            slope = excess.sigmoid_().mul_(row_weight / temperature)
            mean_key.sub_(teacher).mul_(slope[:, None])
        loss = torch.dot(row_weight, per_pixel)
    return with_gradients(loss, (student, mean_key)), per_pixel


def pixel_pairs(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Turn two maps (B, C, H, W) into the rows that :func:`pixel_info_nce` compares; ``valid`` is (B, H, W).

    Returns:
        Student rows and teacher rows, (B * H * W, C) each, and (B * H * W,) weights: 1 for the pixels that count, 0 for
        others and for pixels that are zero in one of the maps.
    """
    check_same_shape(student, teacher)
    rows, weight = normalize_pixels(student, valid)
    targets, target_weight = normalize_pixels(teacher.detach())
    return rows, targets, weight * target_weight


def normalize_pixels(x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Divide each pixel by its L2 norm over the channels.

    Args:
        x: (B, C, H, W) map.
        valid: (B, H, W) bool, the pixels that count. Defaults to all.

    Returns:
        (B * H * W, C) rows and their (B * H * W,) weights, 1 or 0; both float32 (float64 for a float64 map). Pixels
        that do not count, or of a norm of 1e-6 and less, are zero rows of weight 0 without gradient; a pixel that
        counts and is not finite stays NaN.
    """
    batch, channels, height, width = x.shape
    if valid is not None and valid.shape != (batch, height, width):
        raise ValueError(f'valid must be {(batch, height, width)} for a map of {tuple(x.shape)}, got {valid.shape}')
    rows = x.to(loss_dtype(x)).permute(0, 2, 3, 1).reshape(-1, channels)  # (B*H*W, C)
    left_out = torch.linalg.vector_norm(rows.detach(), dim=1) <= MIN_NORM
    if valid is not None:
        left_out = left_out | ~valid.reshape(-1)  # (B*H*W,)
    # before the division: after it, the gradient of a NaN that does not count would be NaN
    rows = F.normalize(rows.masked_fill(left_out[:, None], 0), dim=1, eps=MIN_NORM)
    return rows, (~left_out).to(rows.dtype)


def spatial_gate(x: Tensor, kind: str = 'relu') -> Tensor:
    """Multiply each channel of an image by a gate computed from its mean: ``x * g(mean(x))``.

    With ``f(m) = m * g(m)`` the mean of the result is ``f(mean(x))``. So a head that was trained on pooled vectors
    returns, for a map, a map whose mean is its output for the pooled map (PCD's SpatialAdaptor). f is ``'relu'`` (a
    mean of exactly 0 closes the gate), ``'gelu'`` or ``'silu'``. The dtype stays; means and gates are float32 at least.
    """
    mean = x.to(loss_dtype(x)).mean((2, 3), keepdim=True)
    gate = {'relu': lambda x: x > 0, 'gelu': torch.special.ndtr, 'silu': torch.sigmoid}[kind](mean)
    return x * gate.to(x.dtype)


def key_ranks(vectors: Tensor, keys: Tensor, negatives: Tensor) -> Tensor:
    """Count for each of (B, C) vectors the negatives, (K, C) unit rows, that are nearer to it than its own key."""
    vectors, keys = F.normalize(vectors, dim=1), F.normalize(keys, dim=1)
    return (vectors @ negatives.t() > (vectors * keys).sum(1, keepdim=True)).sum(1)


def _sweep(x: Tensor, negatives: Tensor, scale: float, block: int, with_read: bool) -> tuple[Tensor, Tensor | None]:
    """Return (N,) ``logsumexp_k(scale x.q_k)`` and, if ``with_read``, (N, C) ``sum_k softmax_k(scale x.q_k) q_k``."""
    rows = len(x)
    largest = x.new_full((rows,), -torch.inf)
    total = x.new_zeros(rows)
    mean_key = torch.zeros_like(x) if with_read else None
    buffer = x.new_empty(rows * min(block, len(negatives)))
    for q in negatives.split(block) if len(negatives) else ():
        scores = buffer[: rows * len(q)].view(rows, len(q))  # (N, block)
        scores.addmm_(x, q.t(), beta=0, alpha=scale)
        higher = torch.maximum(largest, scores.amax(1))
        scores.sub_(higher[:, None]).exp_()
        shrink = largest.sub_(higher).exp_()
        total.mul_(shrink).add_(scores.sum(1))
        if mean_key is not None:
            mean_key.mul_(shrink[:, None]).addmm_(scores, q)
        largest = higher
    if mean_key is not None and len(negatives):
        mean_key.div_(total[:, None])
    return total.log_().add_(largest), mean_key
