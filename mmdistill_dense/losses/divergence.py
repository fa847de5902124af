"""Divergences of softmax distributions: of classes (KD, DIST), channels (CWD), similarities (CIRKD)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

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


def divergence_sum(
    student: Tensor, teacher: Tensor, dim: int, temperature: float, weight: Tensor | None = None
) -> Tensor:
    """``sum_r w_r KL(softmax(teacher_r / T) || softmax(student_r / T))`` of (A, P, Q) scores.

    ``dim``, 1 or 2, is the axis of a distribution; ``weight`` has one number per distribution, (A, Q) or (A, P). The
    gradient ``w (p_s - p_t) / T`` is computed in the forward pass; temporaries are as small as a block.

    With ``d = (t - s) / T`` the divergence of a row is ``sum p_t d - (logsumexp t - logsumexp s)``. Both sides are
    shifted so that their largest score is 0: a constant between them would cancel in the difference, and cost digits.
    """
    grad = torch.empty_like(student) if wants_gradient(student) else None
    total = student.new_zeros((), dtype=sum_dtype(student))
    with torch.no_grad():
        for index in _blocks(student, dim):
            s, t = (x[index].contiguous() / temperature for x in (student, teacher))
            p_s, p_t = s.softmax(dim), t.softmax(dim)  # cheaper than log_softmax and the exponential of it
            w = None if weight is None else weight[index[0], index[3 - dim]].unsqueeze(dim)
            shift = _shifted_logsumexp(p_t, dim).sub_(_shifted_logsumexp(p_s, dim))
            s, t = (x.sub_(x.amax(dim, keepdim=True)) for x in (s, t))
            total -= shift.sum() if w is None else (shift * w).sum()
            total += torch.dot(t.sub_(s).flatten(), (p_t if w is None else p_t * w).flatten())  # (A*P*Q,) of a block
            if grad is not None:
                torch.sub(p_s, p_t, out=grad[index])
                if w is not None:
                    grad[index] *= w
    return with_gradients(total.to(student.dtype), (student, grad), divisor=temperature)


def _shifted_logsumexp(p: Tensor, dim: int) -> Tensor:
    """``logsumexp`` of scores whose largest is 0, from their softmax: its largest is ``exp(0) / sum exp``."""
    return p.amax(dim, keepdim=True).log_().neg_()


def _blocks(x: Tensor, dim: int) -> list[tuple[slice, slice, slice]]:
    everything, free = slice(None), 3 - dim
    cells = tiles(x.shape[0], x.shape[free], x.shape[dim], block_elements(x.device) // 4)
    return [(a, b, everything) if free == 1 else (a, everything, b) for a, b in cells]


@without_autocast
def softmax_divergence(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))`` over the classes, mean over batch and positions.

    Source: Hinton et al., 2015, https://arxiv.org/abs/1503.02531; per pixel as in structured distillation (SKD).

    Args:
        student, teacher: (B, C, ...) logits.
        temperature: T, above 0.
        weight: (B, ...), a factor on each position; the mean stays that over all positions. Defaults to 1.
    """
    student, teacher = cast_pair(student, teacher, 'logits')
    if weight is not None:
        check_shape('weight', weight, (len(student), *student.shape[2:]))
    if not student.numel():
        return student.sum()
    s, t = (x.reshape(*x.shape[:2], -1) for x in (student, teacher))  # (B, C, N), N = 1 for rows
    rows = None if weight is None else weight.detach().to(s.dtype).reshape(len(s), -1)  # (B, N)
    divergence = divergence_sum(s, t, 1, temperature, rows)
    return divergence * (temperature**2 * student.shape[1] / student.numel())


@without_autocast
def standardised(x: Tensor, *, eps: float = 1e-7) -> Tensor:
    """``(x - mean_c x) / (std_c x + eps)`` of (B, C, ...) scores over the classes; std of ``C - 1``.

    Rows of equal scores give 0, and get no gradient (ours; the released code's is ``1 / eps`` there).

    Source: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, https://arxiv.org/abs/2403.01427.
    """
    x = x.to(loss_dtype(x))
    flat = x.amax(1, keepdim=True) == x.amin(1, keepdim=True)
    centred = (x - x.mean(1, keepdim=True)).masked_fill(flat, 0)
    variance = centred.square().sum(1, keepdim=True) / max(x.shape[1] - 1, 1)
    return centred / (variance.masked_fill(flat, 1).sqrt() + eps)


@without_autocast
def sigmoid_divergence(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``T^2 * KL`` of independent binary scores ``sigmoid(x / T)``, summed over the channels, mean over the positions.

    The counterpart of :func:`softmax_divergence` for heads with one binary classifier per class.

    Args:
        student, teacher: (B, C, ...) logits, e.g. anchors x classes of a dense detection head.
        temperature: T, above 0.
    """
    student, teacher = cast_pair(student, teacher, 'logits')
    if not student.numel():
        return student.sum()
    student, teacher = student / temperature, teacher / temperature
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return torch.sum(yes + no) * (temperature**2 * student.shape[1] / student.numel())


@without_autocast
def channel_divergence(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))`` over the positions, mean over batch and channels.

    Source: Shu et al., CWD, ICCV 2021, https://arxiv.org/abs/2011.13256, section 3.2.

    Args:
        student, teacher: (B, C, ...) maps; each channel of each image is a distribution over its positions.
        temperature: T, above 0.
    """
    student, teacher = cast_pair(student, teacher)
    if student.dim() < 3:
        raise ValueError(f'maps must be (B, C, ...) with at least one axis of positions, got {tuple(student.shape)}')
    if not student.numel():
        return student.sum()
    divergence = divergence_sum(student.flatten(2), teacher.flatten(2), 2, temperature)  # (B, C, N)
    return divergence * (temperature**2 / (len(student) * student.shape[1]))


_BLOCK_BYTES = 16 * 2**20  # of one matrix of scores; about five are held at a time


@without_autocast
def similarity_divergence(
    student: Tensor,
    student_keys: Tensor,
    teacher: Tensor,
    teacher_keys: Tensor,
    *,
    temperature: float = 0.1,
    row_weight: Tensor | None = None,
    own_key: bool = False,
    block: int | None = None,
) -> Tensor:
    """``sum_p w_p mean_g KL(softmax_k(t_p . t_gk / tau) || softmax_k(s_p . s_gk / tau))``.

    The similarities of a row to the K keys of a group are one distribution; each of the G groups has its own. Student
    and teacher may differ in channels. A matrix of all rows x keys is never stored.

    Source: Yang et al., CIRKD, CVPR 2022, https://arxiv.org/abs/2204.06986; ``own_key``: Fang et al., SEED, ICLR 2021,
    https://arxiv.org/abs/2101.04731.

    Args:
        student, teacher: (N, C) and (N, D) rows.
        student_keys, teacher_keys: (G, K, C) and (G, K, D). Rows and keys of the student get a gradient.
        temperature: tau, above 0.
        row_weight: (N,) weights. Defaults to 1 / N.
        own_key: The teacher's row, a unit vector, is a further key of the same row, to which the teacher's is
            similar by exactly 1. Student and teacher then have the same channels.
        block: Rows compared at a time. Defaults to what fits 16 MiB of scores.
    """
    for side, rows, keys in (('student', student, student_keys), ('teacher', teacher, teacher_keys)):
        if rows.ndim != 2 or keys.ndim != 3 or rows.shape[1] != keys.shape[2]:
            raise ValueError(f'{side} rows must be (N, C) and keys (G, K, C), got {rows.shape} and {keys.shape}')
    if len(student) != len(teacher) or student_keys.shape[:2] != teacher_keys.shape[:2]:
        student_size, teacher_size = tuple(student_keys.shape[:2]), tuple(teacher_keys.shape[:2])
        sizes = f'{len(student)} rows with {student_size} keys, {len(teacher)} with {teacher_size}'
        raise ValueError(f'student and teacher differ in rows or keys: {sizes}')
    if own_key:
        check_same_shape(student, teacher, kind='rows')
    dtype = loss_dtype(student)
    if row_weight is None:
        row_weight = student.new_full((len(student),), 1 / max(len(student), 1), dtype=dtype)
    check_shape('row_weight', row_weight, student.shape[:1])
    if block is None:
        block = max(_BLOCK_BYTES // (dtype.itemsize * max(student_keys.shape[1], 1)), 1)
    tensors = (student, student_keys, teacher, teacher_keys, row_weight)
    s_rows, s_groups, t_rows, t_groups, weight = (x.to(dtype) for x in tensors)
    of_rows, of_keys = [torch.zeros_like(x) if wants_gradient(x) else None for x in (s_rows, s_groups)]
    total = s_rows.new_zeros(())
    with torch.no_grad():
        weights = weight / max(len(s_groups), 1)
        for group, (s_keys, t_keys) in enumerate(zip(s_groups, t_groups, strict=True)):
            for start in range(0, len(s_rows), block):
                part = slice(start, start + block)
                s, t = s_rows[part] @ s_keys.t(), t_rows[part] @ t_keys.t()
                if own_key:
                    s = torch.cat([s, (s_rows[part] * t_rows[part]).sum(1, keepdim=True)], 1)  # (n, K + 1)
                    t = torch.cat([t, t_rows[part].square().sum(1, keepdim=True).round()], 1)  # 1, and 0 of a zero row
                s, t = torch.log_softmax(s / temperature, 1), torch.log_softmax(t / temperature, 1)
                target = t.exp()
                total += torch.dot(weights[part], t.sub_(s).mul_(target).sum(1))
                if of_rows is None and of_keys is None:
                    continue
                slope = s.exp_().sub_(target).mul_((weights[part] / temperature)[:, None])
                if own_key:
                    slope, own_slope = slope[:, :-1], slope[:, -1:]
                    if of_rows is not None:
                        of_rows[part] += own_slope * t_rows[part]
                if of_rows is not None:
                    of_rows[part].addmm_(slope, s_keys)
                if of_keys is not None:
                    of_keys[group].addmm_(slope.t(), s_rows[part])
    return with_gradients(total, (s_rows, of_rows), (s_groups, of_keys))


_EPS = 1e-8
_FLAT = 1e-3  # share of the mean; scores that vary less count as varying by a tenth of it
_COUNTED = 0.1 / _FLAT


@without_autocast
def correlation_distance(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    activation: str = 'softmax',
) -> Tensor:
    """``T^2 [beta (1 - mean_rows rho) + gamma (1 - mean_classes rho)]`` of class scores.

    rho is Pearson's correlation of softmax(student / T) and softmax(teacher / T), over the classes of one row or over
    the rows of one class; the product of the two norms in its denominator has 1e-8 added.

    The gradient of rho grows as 1 / deviation of the student's scores. To bound it (ours), scores that deviate by less
    than a thousandth of their mean, as those of a zero-initialised classifier, count as deviating by a tenth of it: rho
    is then proportional to them, 0 for equal scores, and its gradient has the usual size.

    Source: Huang et al., DIST, NeurIPS 2022, https://arxiv.org/abs/2205.10536.

    Args:
        student, teacher: (R, K) logits, or (B, K, ...) maps whose positions are the rows.
        temperature: T, above 0.
        beta, gamma: Weights of the correlation within rows (between classes) and within classes (between rows).
        activation: ``'softmax'``, or ``'sigmoid'`` for independent binary scores.
    """
    student, teacher = cast_pair(student, teacher, 'logits')
    if not student.numel():
        return student.sum()
    maps = (x.reshape(*x.shape[:2], -1) / temperature for x in (student, teacher))  # (B, K, N)
    s, t = (x.softmax(1) if activation == 'softmax' else x.sigmoid() for x in maps)
    grad = torch.empty_like(s) if wants_gradient(s) else None
    # With centred vectors x, y and D = |x| |y| + eps, d rho / dx = y / D - (x.y) |y| / (D^2 |x|) x, centred too; where
    # x is flat, |x| is a constant and the second term vanishes.
    with torch.no_grad():
        means = [value.mean((0, 2), keepdim=True) for value in (s, t)]
        within = [s.new_zeros(1, s.shape[1], 1) for _ in range(3)]
        for block in _blocks(s, 1):
            for total, part in zip(within, _moments(s[block] - means[0], t[block] - means[1], (0, 2)), strict=True):
                total += part
        rows = s.numel() // s.shape[1]
        rho, pull, along = _slopes(within, _FLAT * rows**0.5 * means[0])
        value = gamma * rho.mean()
        for block in _blocks(s, 1):
            row_means = [side[block].mean(1, keepdim=True) for side in (s, t)]
            x, y = (side[block] - mean for side, mean in zip((s, t), row_means, strict=True))
            rho, row_pull, row_along = _slopes(_moments(x, y, (1,)), _FLAT * s.shape[1] ** 0.5 * row_means[0])
            value += rho.sum() * (beta / rows)
            if grad is not None:
                slope = y.mul_(row_pull).addcmul_(x, row_along, value=-1).mul_(beta / rows)
                share = gamma / s.shape[1]
                slope.addcmul_(torch.sub(t[block], means[1], out=x), pull, value=share)
                slope.addcmul_(torch.sub(s[block], means[0], out=x), along, value=-share)
                grad[block] = slope
    return temperature**2 * (beta + gamma - with_gradients(value, (s, grad)))


def _moments(x: Tensor, y: Tensor, axes: tuple[int, ...]) -> list[Tensor]:
    product = torch.empty_like(x)
    return [torch.mul(*pair, out=product).sum(axes, keepdim=True) for pair in ((x, x), (y, y), (x, y))]


def _slopes(moments: Sequence[Tensor], flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rho and the factors of y and -x in its gradient; an x of norm up to ``flat`` counts as longer."""
    xx, yy, xy = moments
    x_norm, y_norm = xx.sqrt(), yy.sqrt()
    is_flat = x_norm <= flat
    x_norm = torch.where(is_flat, _COUNTED * flat, x_norm)
    pull = 1 / (x_norm * y_norm + _EPS)
    rho = xy * pull
    return rho, pull, torch.where(is_flat, 0, rho * pull * y_norm / x_norm)
