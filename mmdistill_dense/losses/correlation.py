"""Correlation of class scores instead of their divergence (DIST)."""

import torch
from torch import Tensor

from mmdistill_dense.losses.precision import check_same_shape, loss_dtype, without_autocast

_EPS = 1e-8


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
    """``T^2 [beta (1 - mean_rows rho) + gamma (1 - mean_classes rho)]``: what DIST compares class scores by.

    rho is Pearson's correlation of softmax(student / T) and softmax(teacher / T), over the classes of one row or over
    the rows of one class; the product of the two norms in its denominator has 1e-8 added. Source: DIST (NeurIPS 2022).

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
    if not temperature > 0:
        raise ValueError(f'temperature must be above 0, got {temperature}')
    check_same_shape(student, teacher, what='logits')
    dtype = loss_dtype(student)
    if not student.numel():
        return student.to(dtype).sum()
    rows = (_rows(x.to(dtype) / temperature) for x in (student, teacher.detach()))
    s, t = (x.softmax(1) if activation == 'softmax' else x.sigmoid() for x in rows)
    between_classes, between_rows = (1 - _correlation(s, t, dim).mean() for dim in (1, 0))
    return temperature**2 * (beta * between_classes + gamma * between_rows)


def _rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def _correlation(x: Tensor, y: Tensor, dim: int) -> Tensor:
    x, y = x - x.mean(dim, keepdim=True), y - y.mean(dim, keepdim=True)
    norms = torch.linalg.vector_norm(x, dim=dim) * torch.linalg.vector_norm(y, dim=dim)
    return (x * y).sum(dim) / (norms + _EPS)
