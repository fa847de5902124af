"""Correlation distance of class scores (DIST)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdistill_dense.losses.blocks import block_elements, tiles
from mmdistill_dense.losses.precision import check_same_shape, check_temperature, loss_dtype, without_autocast

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
        student: (R, K) logits, or (B, K, ...) maps whose positions are the rows. The only input that gets a gradient.
        teacher: Logits of the same shape.
        temperature: T, above 0.
        beta: Weight of the correlation within rows (between classes).
        gamma: Weight of the correlation within classes (between rows).
        activation: ``'softmax'``, or ``'sigmoid'`` for independent binary scores.

    Returns:
        Scalar in float32 (float64 for float64 logits); 0 where there are no rows.

    Raises:
        ValueError: Unequal shapes, a temperature that is not positive or an unknown activation.
    """
    if activation not in ('softmax', 'sigmoid'):
        raise ValueError(f"activation must be 'softmax' or 'sigmoid', got {activation!r}")
    check_temperature(temperature)
    check_same_shape(student, teacher, what='logits')
    dtype = loss_dtype(student)
    if not student.numel():
        return student.to(dtype).sum()
    maps = (x.to(dtype).reshape(*x.shape[:2], -1) / temperature for x in (student, teacher.detach()))  # (B, K, N)
    s, t = (x.softmax(1) if activation == 'softmax' else x.sigmoid() for x in maps)
    correlations = _Correlation.apply(s if torch.is_grad_enabled() else s.detach(), t, beta, gamma)
    return temperature**2 * (beta + gamma - correlations)


class _Correlation(torch.autograd.Function):
    """``beta mean_rows rho + gamma mean_classes rho`` of (B, K, N) scores, with its gradient in the forward pass.

    With centred vectors x, y and ``D = |x| |y| + eps``, ``d rho / dx = y / D - (x.y) |y| / (D^2 |x|) x``, centred too;
    where x is flat, |x| is a constant and the second term vanishes.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor, beta: float, gamma: float) -> Tensor:
        grad = torch.empty_like(s) if ctx.needs_input_grad[0] else None
        means = [value.mean((0, 2), keepdim=True) for value in (s, t)]
        within = [s.new_zeros(1, s.shape[1], 1) for _ in range(3)]
        for block in _blocks(s):
            for total, part in zip(within, _moments(s[block] - means[0], t[block] - means[1], (0, 2)), strict=True):
                total += part
        rows = s.numel() // s.shape[1]
        rho, pull, along = _slopes(within, _FLAT * rows**0.5 * means[0])
        value = gamma * rho.mean()
        for block in _blocks(s):
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
        if grad is not None:
            ctx.save_for_backward(grad)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_output, None, None, None


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


def _blocks(x: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    for b, n in tiles(x.shape[0], x.shape[2], x.shape[1], block_elements(x.device) // 4):
        yield b, slice(None), n
