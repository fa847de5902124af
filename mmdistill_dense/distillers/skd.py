"""SKD: structured distillation by similarities of all pairs of positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.losses import pairwise_distance
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Resize, check_count, check_directions, check_map, check_positions


@DISTILLERS.register_module()
class SKD(FeatureDistiller):
    """Structured distillation, pair-wise: match the cosine similarities of all pairs of positions.

    A map ``(B, C, H, W)`` is max-pooled to N nodes; with the cosine ``a[b, i, j]`` of nodes ``i`` and ``j``::

        loss_skd = 1 / (B N²) * sum over b, i, j of  (a_s[b, i, j] - a_t[b, i, j])²

    Student and teacher may differ in channels. The loss of a batch is the mean of the losses of its images. No
    parameters. Time O(B N C min(N, C)), memory min(N², C_s² + C_t² + C_s C_t) per image: the N x N similarities are
    made only where the products of the channels would be larger.

    Source: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019,
    https://arxiv.org/abs/1903.04197, the pair-wise loss. The pixel-wise loss of the paper is :class:`LogitKD`; its
    holistic loss, a discriminator on the class scores, is left out. Nodes: patches of 2 x 2 positions in CIRKD's runs
    (the default); half of the map's sides in the authors' released code, so 2 x 2 nodes in all (``pool_scale=0.5``; one
    more per side where the pooled side is odd). Their code also stops the gradient through the norms; here and in
    CIRKD's runs it flows.

    Args:
        student_tap, teacher_tap, teacher, loss_weight, balance, schedule, resize: See :class:`FeatureDistiller`. The
            default tap is the features before the class scores, as released; ``resize`` defaults to ``'student'``.
        patch_size: Side of the patch of positions that makes a node. Defaults to 2, unless ``pool_scale`` is given.
        pool_scale: The same as a share of the map's sides, above 0 and at most 1. Defaults to ``None``.

    Raises:
        ValueError: For taps that are no maps of two nodes and two channels or more, a patch below 1, a scale outside
            (0, 1], or both options.

    Example::

        skd=dict(type='SKD', loss_weight=10.0)
    """

    def __init__(
        self,
        student_tap: TapOption = 'decode_head.conv_seg:input',
        teacher_tap: TapOption | None = None,
        *,
        patch_size: int | None = None,
        pool_scale: float | None = None,
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, align='auto', resize=resize, **kwargs)
        if patch_size is not None and pool_scale is not None:
            raise ValueError(f'patch_size={patch_size} and pool_scale={pool_scale} both set the patch: give only one.')
        if pool_scale is not None and not 0 < pool_scale <= 1:
            raise ValueError(f'pool_scale must be above 0 and at most 1, got {pool_scale}.')
        self.patch_size = 2 if patch_size is None else patch_size
        check_count('patch_size', self.patch_size, 1)
        self.pool_scale = pool_scale

    def build_align(self, level: Level) -> None:
        """Check that the level is a map; similarities have no channels to align."""
        check_map(self.key, level.name, level.student)
        check_directions(self.key, level.name, level.student[0])
        check_positions(self.key, level.name, level.student, level.teacher)
        nodes = self.nodes(torch.empty(1, 1, *self.grid(level)))
        check_positions(self.key, f'{level.name} after the pooling of patch_size or pool_scale', nodes.shape[1:])

    def nodes(self, x: Tensor) -> Tensor:
        """Return the map max-pooled to its nodes; an incomplete last patch is a node too."""
        if self.pool_scale is None:
            patch = (min(self.patch_size, x.shape[2]), min(self.patch_size, x.shape[3]))
        else:
            patch = (max(1, int(self.pool_scale * x.shape[2])), max(1, int(self.pool_scale * x.shape[3])))
        return x if patch == (1, 1) else F.max_pool2d(x, patch, patch, ceil_mode=True)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        """Return ``loss_skd`` of one pair of maps."""
        return {'loss_skd': pairwise_distance(self.nodes(student), self.nodes(teacher))}
