"""The released formulas of the methods, written as plainly as they read: what the benchmark and the tests compare with.

Nothing here is used in training. Every step allocates what its formula names.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def afdcd_token_contrast(student: Tensor, teacher: Tensor, groups: int, temperature: float) -> Tensor:
    """Sum over rows of the omni contrast of (patches, tokens, D): all distances, boolean masks, cross-entropy.

    Token = position * groups + group. Candidates of a row: itself and the tokens of the other groups.
    """
    patches, tokens, _ = student.shape
    logits = -torch.cdist(student, teacher.detach(), p=1) / temperature
    group = torch.arange(tokens, device=student.device) % groups
    is_positive = torch.eye(tokens, dtype=torch.bool, device=student.device).repeat(patches, 1, 1)
    is_negative = (group[:, None] != group[None]).repeat(patches, 1, 1)
    positives = logits[is_positive].view(patches * tokens, 1)
    negatives = logits[is_negative].view(patches * tokens, -1)
    rows = torch.cat([positives, negatives], 1)
    return F.cross_entropy(rows, rows.new_zeros(len(rows), dtype=torch.long), reduction='sum')


def afdcd_contrast(
    student: Tensor, teacher: Tensor, groups: int, temperature: float, pool_size: int, patch_size: Sequence[int]
) -> Tensor:
    """Omni contrast of (B, C, H, W) maps whose pooled size is a multiple of the patch."""
    if pool_size:
        student, teacher = F.max_pool2d(student, pool_size), F.max_pool2d(teacher, pool_size)
    batch, _, height, width = student.shape
    students, teachers = (afdcd_tokens(x, groups, patch_size) for x in (student, teacher))
    return afdcd_token_contrast(students, teachers, groups, temperature) / (height * width) / batch


def afdcd_tokens(x: Tensor, groups: int, patch_size: Sequence[int]) -> Tensor:
    """Cut (B, C, H, W) into (patches, positions * groups, C / groups)."""
    height, width = patch_size
    patches = x.unfold(2, height, height).unfold(3, width, width)  # (B, C, rows, cols, ph, pw)
    patches = patches.permute(0, 2, 3, 4, 5, 1)  # channels last: each position's groups are contiguous blocks
    return patches.reshape(-1, height * width * groups, x.shape[1] // groups)


def afdcd_first_conv(
    feat: Tensor, keep: Tensor, align_weight: Tensor, align_bias: Tensor, conv_weight: Tensor, conv_bias: Tensor
) -> Tensor:
    """Align, mask, first 3x3 convolution, one after the other."""
    return F.conv2d(F.conv2d(feat, align_weight, align_bias) * keep, conv_weight, conv_bias, padding=1)


def maskd_masks(tokens: Tensor, x: Tensor) -> Tensor:
    """One sigmoid mask per token: (N, T, H, W)."""
    return torch.einsum('tc,nchw->nthw', tokens, x).sigmoid()


def maskd_mask_weights(x: Tensor, conv_weight: Tensor, conv_bias: Tensor, fc_weight: Tensor, fc_bias: Tensor) -> Tensor:
    """3x3 convolution, mean over positions, 1x1 convolution, softmax: (N, T)."""
    pooled = F.adaptive_avg_pool2d(F.conv2d(x, conv_weight, conv_bias, padding=1), 1)
    return F.conv2d(pooled, fc_weight, fc_bias).flatten(1).softmax(1)


def maskd_gate(x: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Sum over tokens of the masked maps, weighted where there are weights."""
    masked = x[:, None] * masks[:, :, None]  # (N, T, C, H, W)
    if weights is not None:
        masked = masked * weights[:, :, None, None, None]
    return masked.sum(1)


def maskd_dice(masks: Tensor, eps: float = 1e-12) -> Tensor:
    """Mean Dice coefficient of all ordered pairs of different masks."""
    m = masks.flatten(2)
    products = (m[:, :, None] * m[:, None]).sum(3)  # of (N, T, T, P)
    squares = m.square().sum(2) + eps
    dice = 2 * products / (squares[:, :, None] + squares[:, None])
    different = ~torch.eye(m.shape[1], dtype=torch.bool, device=m.device)
    return dice[:, different].mean()


def maskd_loss(
    student: Tensor,
    teacher: Tensor,
    tokens: Tensor,
    branch: Sequence[Tensor] | None = None,
    *,
    student_mask: bool = False,
    eps: float = 0.0,
    factor: float = 1.0,
) -> Tensor:
    """Mask both maps by every token, square the difference, divide by the areas, weigh the masks."""
    masks = maskd_masks(tokens, teacher)
    if student_mask:
        masks = masks * maskd_masks(tokens, student.detach())
    masked_student = student[:, None] * masks[:, :, None]  # (N, T, C, H, W)
    masked_teacher = teacher[:, None] * masks[:, :, None]
    squares = (masked_student - masked_teacher) ** 2
    errors = (squares.sum((3, 4)) / (masks.sum((2, 3)) + eps)[:, :, None]).mean(2)  # (N, T)
    if branch is None:
        return factor * errors.mean()
    return factor * (errors * maskd_mask_weights(teacher, *branch)).sum(1).mean()


def pcd_info_nce(student: Tensor, teacher: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Mean over (N, C) rows of the cross-entropy of the positive beside all negatives."""
    positive = (student * teacher.detach()).sum(1, keepdim=True)
    logits = torch.cat([positive, student @ negatives.detach().t()], 1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
