"""Positions of a picture compared with each other (TokenRelations), and read by attention (QueryMatch)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.infonce import normalize_pixels
from mmdistill_dense.losses.kl import divergence_sum
from mmdistill_dense.losses.precision import (
    check_same_grid,
    check_same_shape,
    check_temperature,
    loss_dtype,
    without_autocast,
)
from mmdistill_dense.losses.resize import mean_weight

_NEVER = -1e4  # added to a similarity: its share of the softmax becomes 0, but a NaN still shows


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

    Source: the local term of lightly-train's third distillation method; its documentation names no paper.

    Args:
        student: (B, C, H, W) map, the only input that gets a gradient.
        teacher: (B, D, H, W) map.
        temperature: tau, above 0.
        diagonal: Whether the similarity of a vector to itself, which is 1, is one of a row's. It takes most of the mass
            where the vectors of a picture differ.
        rows: (M,) flat indices of the positions m. Defaults to all. Positions n are always all.
        inside: (B, H, W) bool, the positions inside the pictures; others are neither m nor n. Defaults to all.

    Returns:
        Scalar in float32 (float64 for float64 maps). A picture without a position counts as 0.

    Raises:
        ValueError: A temperature that is not positive, or shapes that do not fit.
    """
    check_temperature(temperature)
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

    The teacher's vectors are the keys as they are: no projection, one head, no division by the root of the channels.

    Source: query-based soft distillation of GKD, https://arxiv.org/abs/2603.02554, the term of the patches.

    Args:
        query: (B, D, H, W) queries made of the student's map.
        value: (B, D, H, W) values made of the student's map.
        teacher: (B, D, H, W) map, keys and target.
        inside: (B, H, W) bool, the positions inside the pictures; others are neither m nor n. Defaults to all.

    Returns:
        Scalar in float32 (float64 for float64 maps). A picture without a position counts as 0.

    Raises:
        ValueError: Unequal shapes, or tensors that are no maps.
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
