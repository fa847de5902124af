"""MGD: masked generative distillation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Reduction, Resize, check_map, check_positive, check_share


@DISTILLERS.register_module()
class MGD(FeatureDistiller):
    """Mask the student's map at random and generate the teacher's whole map from it by a small convolutional block.

    Per level, with maps ``F_s (B, Cs, H, W)``, ``F_t (B, Ct, H, W)``, a 1x1 convolution ``align`` where the channels
    differ, a mask ``M (B, 1, H, W)`` that drops each position with probability ``mask_ratio`` (drawn anew in each
    step), and a block ``G`` of a 3x3 convolution, ReLU and a 3x3 convolution, all with Ct channels::

        loss_mgd = alpha * sum_levels sum_{b,c,h,w} (G(M * align(F_s)) - F_t)^2 / B

    The sum grows with the map, so the published ``alpha`` belongs to the published picture size; ``reduction='mean'``
    divides by the number of elements instead, and needs another ``alpha`` (the published one times C H W).

    Source: Yang et al., "Masked Generative Distillation", ECCV 2022, https://arxiv.org/abs/2205.01529, eq. 4 and 5, and
    its released code, which agree. Both mask positions for dense prediction (and channels for classification). Ours:
    the mask depends only on seed, process and iteration, so that a resumed run draws the same. The released code taps
    the FPN before its normalisation where it has one (RepPoints); here it is the neck's output.

    Cost: the block has ``18 Ct^2`` weights, in training only: 1.2 M a level for an FPN of 256 channels, 75 M for the
    last stage of a ResNet-101, which is more than the student.

    Args:
        student_tap: Defaults to the neck, all its levels.
        teacher_tap: Defaults to the same.
        mask_ratio: Probability to drop a position (lambda): 0.75 for segmentation, 0.65 for one-stage and 0.45 for
            two-stage detectors.
        alpha: Factor of the loss: 2e-5, for two-stage detectors 5e-7.
        reduction: ``'sum'`` as published, or ``'mean'``.
        resize: Whose map is resized where the sizes differ. Defaults to ``'student'``.
        **kwargs: ``align``, ``teacher``, ``loss_weight``, ``balance``, ``schedule``, ``clip_max_norm`` of
            :class:`FeatureDistiller`.

    Raises:
        ValueError: For an option out of range; in :meth:`setup` for a tap that gives no (B, C, H, W) map.

    Example:
        >>> import torch
        >>> distiller = MGD('backbone[3]', mask_ratio=0.75)
        >>> shapes = [{'backbone[3]': [torch.Size((1, channels, 8, 8))]} for channels in (4, 6)]
        >>> distiller.setup(*shapes)
        >>> maps = ({'backbone[3]': [torch.ones(2, channels, 8, 8)]} for channels in (4, 6))
        >>> list(distiller(*maps, None))
        ['loss_mgd']
    """

    def __init__(
        self,
        student_tap: TapOption = 'neck',
        teacher_tap: TapOption | None = None,
        *,
        mask_ratio: float = 0.65,
        alpha: float = 2e-5,
        reduction: Reduction = 'sum',
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, resize=resize, **kwargs)
        check_share('mask_ratio', mask_ratio)
        check_positive('alpha', alpha)
        self.mask_ratio = mask_ratio
        self.alpha = alpha
        self.reduction = reduction

    def build_level(self, level: Level) -> nn.Module:
        check_map(self.key, level.name, level.teacher)
        channels = level.teacher[0]
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        return nn.Sequential(first, nn.ReLU(inplace=True), second)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> Losses:
        """Return ``loss_mgd`` of one level."""
        generated = self.parts[level](student * self._mask(student, level))
        return {'loss_mgd': self.alpha * losses.feature_mimic(generated, teacher, reduction=self.reduction)}

    def _mask(self, x: Tensor, level: int) -> Tensor:
        batch, _, height, width = x.shape
        keep = losses.random_keep((batch, height, width), self.mask_ratio, self.generator(level))
        return losses.to_device(keep, x).to(x.dtype)
