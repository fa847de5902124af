"""Distance of the cosine similarities of all pairs of positions (SKD)."""

import torch
from torch import Tensor

from mmdistill_dense.losses.infonce import MIN_NORM
from mmdistill_dense.losses.precision import check_same_grid, loss_dtype, without_autocast


@without_autocast
def pairwise_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean (a_s - a_t)^2`` over the images and all pairs of their positions; ``a`` is the cosine of two positions.

    With few channels the N x N similarities are never made: for unit columns S, T (C, N) it is
    ``|| S^T S - T^T T ||^2 = || S S^T ||^2 + || T T^T ||^2 - 2 || S T^T ||^2``, exact to about 1e-6 of the mean squared
    similarity. The form with the smaller matrices is used.

    Source: Liu et al., SKD, CVPR 2019, https://arxiv.org/abs/1903.04197, pair-wise loss.

    Args:
        student: (B, C_s, H, W) maps, the only input that gets a gradient. A position of zeros has similarity 0 to all.
        teacher: (B, C_t, H, W) maps; the channels may differ.

    Returns:
        Scalar in float32 (float64 for float64 maps); 0 where there are no pictures or no positions.

    Raises:
        ValueError: Unequal batch or size.
    """
    check_same_grid(student, teacher)
    s, t = (x * inverse_norms(x) for x in (_lists(student), _lists(teacher.detach())))  # (B, C, N) each
    nodes, (c_s, c_t) = s.shape[2], (s.shape[1], t.shape[1])
    if nodes**2 <= c_s**2 + c_t**2 + c_s * c_t:
        total = (torch.bmm(s.mT, s) - torch.bmm(t.mT, t)).square().sum()
    else:
        squares = [torch.bmm(x, y.mT).square().sum() for x, y in ((s, s), (t, t), (s, t))]
        total = squares[0] + squares[1] - 2 * squares[2]
    return total / max(len(s) * nodes**2, 1)


def _lists(x: Tensor) -> Tensor:
    return x.to(loss_dtype(x)).flatten(2)


def inverse_norms(x: Tensor) -> Tensor:
    """Return the inverse L2 norm over the channels of (B, C, N) positions: (B, 1, N).

    Positions of a norm of 1e-6 and less have no direction: 0, without gradient.
    """
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return norms.clamp_min(MIN_NORM).reciprocal().masked_fill(norms <= MIN_NORM, 0)
