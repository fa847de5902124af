"""Dense contrast between student and teacher tokens of one patch (Af-DCD), loss and gradient in one pass.

A map is cut into patches of N positions and each position into M channel groups of D channels; a token is one group at
one position. Every student token is compared with the teacher tokens of its patch by the L1 distance, and asked to be
nearest to the teacher token at its own place. The variants differ only in N, M and in which tokens are candidates.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses import contrast_kernel, contrast_plain
from mmdistill_dense.losses.contrast_plain import Tokens
from mmdistill_dense.losses.tensors import (
    check_same_shape,
    check_temperature,
    loss_dtype,
    wants_gradient,
    with_gradients,
    without_autocast,
)

CONTRASTS = ('omni', 'channel', 'spatial')
NEGATIVES = ('other_groups', 'all')
TEMPERATURE = 0.07  # of tokens of a channel group, as released


@without_autocast
def dense_contrast(
    student: Tensor,
    teacher: Tensor,
    *,
    contrast: str = 'omni',
    negatives: str = 'other_groups',
    groups: int = 16,
    temperature: float | None = None,
    pool_size: int = 4,
    patch_size: Sequence[int] | None = (4, 4),
    compiled: bool = False,
) -> Tensor:
    """Contrast of student tokens with the teacher tokens of the same patch.

    ``sum_i [logsumexp_j(-d_ij / tau) + d_ii / tau] / (h * w) / B`` with ``d_ij`` the L1 distance of student token i and
    teacher token j, ``h x w`` the size after pooling and cropping. The maps are max-pooled, then cropped at the bottom
    and right to whole patches; a side that is shorter than a pooling window or a patch is one window or patch.

    Source: Fan et al., Af-DCD, NeurIPS 2023, https://arxiv.org/abs/2312.04168; ``omni`` as released, ``spatial`` and
    ``channel`` after the paper's overview figure.

    Args:
        student, teacher: (B, C, H, W) maps, the student's usually a projector's output.
        contrast: ``'omni'``: tokens are channel groups, all of a patch; ``'channel'``: channel groups of one position
            (patch 1 x 1); ``'spatial'``: whole channel vectors, all of a patch.
        negatives: Of ``'omni'`` alone: ``'other_groups'`` leaves out the tokens of the anchor's own group at other
            positions, ``'all'`` keeps them.
        groups: Channel groups M of ``'omni'`` and ``'channel'``, at least 2 and a divisor of C.
        temperature: tau, by which distances are divided. Defaults to :func:`contrast_temperature`.
        pool_size: Kernel and stride of the max-pooling before; 0 or 1 is none.
        patch_size: Height and width of a patch in pooled positions; None is the whole map. ``'channel'`` ignores it.
        compiled: On the CPU, use a kernel that the machine's C++ compiler builds at the first call of a process (about
            a second): several times faster, equal up to rounding. Without a compiler, warn once and use plain PyTorch.
    """
    check_same_shape(student, teacher)
    check_contrast(contrast, negatives, groups, temperature, pool_size, patch_size, channels=student.shape[1])
    if not student.numel():
        return student.to(loss_dtype(student)).sum()
    temperature = contrast_temperature(contrast, student.shape[1]) if temperature is None else temperature
    groups = 1 if contrast == 'spatial' else groups
    teacher = teacher.detach()
    student = student if torch.is_grad_enabled() else student.detach()
    if pool_size > 1:
        window = _fitted((pool_size, pool_size), student)
        student, teacher = _max_pool(student, window), _max_pool(teacher, window)
    patch = _fitted((1, 1) if contrast == 'channel' else patch_size, student)
    dtype = loss_dtype(student)
    cut = Tokens(groups, patch, contrast == 'omni' and negatives == 'other_groups')
    positions = len(student) * math.prod(
        size // side * side for size, side in zip(student.shape[2:], patch, strict=True)
    )
    student, kernel = student.to(dtype), compiled and student.device.type == 'cpu' and contrast_kernel.available()
    way = contrast_kernel.loss_and_grad if kernel else contrast_plain.loss_and_grad
    wanted = wants_gradient(student)
    with torch.no_grad():
        loss, grad = way(student, teacher.to(dtype), cut, temperature, wanted)
    return with_gradients(loss.to(dtype), (student, grad)) / positions


def contrast_temperature(contrast: str, channels: int) -> float:
    """Return the default temperature of a variant for maps of ``channels`` channels.

    A distance is a sum over the channels of a token. Channel groups (``'omni'``, ``'channel'``) have the released 0.07:
    over few channels, a token at another place is often the nearest, which gives a gradient. Whole vectors
    (``'spatial'``) have 0.07 per channel: over hundreds of channels, the token at the same place is the nearest as soon
    as the student has learned a little, and with 0.07 the softmax would be one-hot, without a gradient.
    """
    return TEMPERATURE * channels if contrast == 'spatial' else TEMPERATURE


def check_contrast(
    contrast: str,
    negatives: str,
    groups: int,
    temperature: float | None,
    pool_size: int,
    patch_size: Sequence[int] | None,
    *,
    channels: int | None = None,
) -> None:
    """Check the options of :func:`dense_contrast`, against a map's channels where they are known."""
    if contrast not in CONTRASTS:
        raise ValueError(f'contrast must be one of {CONTRASTS}, got {contrast!r}')
    if negatives not in NEGATIVES:
        raise ValueError(f'negatives must be one of {NEGATIVES}, got {negatives!r}')
    if temperature is not None:
        check_temperature(temperature)
    if pool_size < 0:
        raise ValueError(f'pool_size must be 0 (none) or a kernel size, got {pool_size}')
    if patch_size is not None and (len(patch_size) != 2 or min(patch_size) < 1):
        raise ValueError(f'patch_size must be (height, width) or None for the whole map, got {patch_size}')
    if contrast == 'spatial':
        if patch_size is not None and tuple(patch_size) == (1, 1):
            raise ValueError("patch_size must hold two positions or more for contrast='spatial', got (1, 1)")
    elif groups < 2:
        raise ValueError(
            f'groups must be at least 2 for contrast={contrast!r} (one alone has no negatives), got {groups}'
        )
    elif channels is not None and channels % groups:
        raise ValueError(f'groups={groups} does not divide the {channels} channels of the maps')


def _fitted(window: Sequence[int] | None, x: Tensor) -> tuple[int, int]:
    """Return the window, at most as large as the map: some batches have far smaller pictures than others."""
    height, width = x.shape[2:]
    return (height, width) if window is None else (min(window[0], height), min(window[1], width))


def _max_pool(x: Tensor, window: tuple[int, int]) -> Tensor:
    if x.requires_grad:
        return F.max_pool2d(x, window)
    # the same values, five times faster on the CPU, where no index of the maximum is needed
    height, width = window
    x = x[:, :, : x.shape[2] // height * height, : x.shape[3] // width * width]
    return x.unflatten(2, (-1, height)).amax(3).unflatten(3, (-1, width)).amax(4)
