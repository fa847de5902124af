"""Af-DCD: augmentation-free dense contrastive distillation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.config.unknown_keys import read_options
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller, Level, PublishedSum
from mmdistill_dense.losses.contrast import TEMPERATURE
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Positive, Reduction, Share, Whole, check_positions, check_weights

_GROUPS, _POOL = 16, 4  # the published ones
_POOLED = 16  # least side of a map that 'auto' pools


@dataclass(frozen=True)
class Mask:
    """Option ``mask``: which positions of the student's map are hidden before the projector."""

    type: Literal['random', 'centre'] = 'random'
    ratio: Share | None = None  # how many are hidden, of 'random' alone. Defaults to 0.75.

    def __post_init__(self) -> None:
        if self.type == 'centre' and self.ratio is not None:
            raise ValueError("mask.ratio is of type='random': type='centre' hides a fixed share.")


@DISTILLERS.register_module()
class AfDCD(FeatureDistiller):
    """Rebuild the teacher's map from the masked student map, and contrast the two token by token.

    ``P = projector(keep * align(F_s))`` has the teacher's shape and feeds both losses::

        loss_fd  = fd_weight  * sum (P - F_t)^2 / B                                     masked feature mimicking
        loss_ctr = ctr_weight * contrast of pooled P and F_t, tokens = channel groups   see losses.dense_contrast

    Source: Fan et al., "Augmentation-free Dense Contrastive Knowledge Distillation for Efficient Semantic
    Segmentation", NeurIPS 2023, https://arxiv.org/abs/2312.04168, and its released code; ``contrast='spatial'``,
    ``'channel'`` and ``negatives='all'`` from its overview figure alone. Ours, with the same values: the first
    convolution folded with the align, the closed-form gradient of the contrast; with other values: maps cropped to
    whole patches, masks that differ between processes. Options: [docs/methods/afdcd.md](../methods/afdcd.md).
    """

    needs: ClassVar[tuple[str, ...]] = ('map',)
    aligns_channels: ClassVar[bool] = False  # the projector does, because the mask comes between the two

    fixed: ClassVar[tuple[str, ...]] = ('align',)
    student_tap, resize = 'backbone[-1]', 'student'
    contrast: Literal['omni', 'channel', 'spatial'] = 'omni'
    negatives: Literal['other_groups', 'all'] = 'other_groups'
    groups: int | Literal['auto'] = 16
    temperature: Positive | None = None
    pool_size: Whole | Literal['auto'] = 4
    patch_size: Sequence[int] | None = (4, 4)
    projector: Literal['plain', 'enhanced'] = 'plain'
    fd_weight: float | None = None
    fd_reduction: Reduction = 'sum'
    ctr_weight: float = 0.005
    # maps of Cityscapes; of VOC, ADE20K and COCO-Stuff; of CamVid
    published_sum: ClassVar[PublishedSum] = PublishedSum(
        'fd_weight', 'fd_reduction', (2048 * 64 * 128, 2048 * 64 * 64, 2048 * 45 * 45), '8.4 to 42',
        '33.6 (8.4 on VOC and ADE20K)',
    )  # fmt: skip

    def __init__(
        self,
        *taps: TapOption | None,
        mask: Mapping[str, Any] | None = None,
        clip_max_norm: Positive | None = 15.0,
        **options: Any,
    ) -> None:
        super().__init__(*taps, clip_max_norm=clip_max_norm, **options)
        losses.check_contrast(**self._contrast_of(_GROUPS, _POOL))
        if self.fd_weight is None:
            if options.get('fd_reduction') == 'sum':
                raise ValueError("fd_reduction='sum' needs fd_weight: the default is for the mean.")
            self.fd_weight, self.fd_reduction = 33.6, 'mean'
        check_weights(fd_weight=self.fd_weight, ctr_weight=self.ctr_weight)
        if self.temperature is None and self.contrast != 'spatial':
            self.temperature = TEMPERATURE  # for any number of channels
        self.mask = read_options(Mask, {} if mask is None else mask, 'mask')

    def build_level(self, level: Level) -> nn.Module:
        if self.ctr_weight:
            try:
                losses.check_contrast(**self._options_of(level), channels=level.teacher[0])
            except ValueError as error:
                raise ValueError(f'{self.key}: {level.name}: {error}') from None
            if self.contrast == 'spatial':
                pool = max(self._options_of(level)['pool_size'], 1)
                pooled = (1, *(max(side // pool, 1) for side in self.grid(level)))
                check_positions(self.key, f'{level.name} after pool_size={pool}', pooled)
        projector = PlainProjector if self.projector == 'plain' else EnhancedProjector
        return projector(level.student[0], level.teacher[0])

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> Losses:
        b, _, h, w = student.shape
        output = self.parts[level](student, self.keep((b, h, w), level))
        terms: Losses = {}
        if self.fd_weight:
            terms['loss_fd'] = self.fd_weight * losses.feature_mimic(output, teacher, reduction=self.fd_reduction)
        if self.ctr_weight:
            contrast = losses.dense_contrast(output, teacher, **self._options_of(self.levels[level], output.shape[2:]))
            scale = 1.0  # which makes the gradient of the spatial contrast as large as that of the others
            if self.contrast == 'spatial':
                temperature = self.temperature or losses.contrast_temperature('spatial', teacher.shape[1])
                scale = temperature / TEMPERATURE
            terms['loss_ctr'] = self.ctr_weight * scale * contrast
        return terms

    def _options_of(self, level: Level, size: Sequence[int] = ()) -> dict[str, Any]:
        """Return the options of the contrast for a level whose maps have this size. Default: the traced size."""
        pool_size = _POOL if min(size or self.grid(level)) >= _POOLED else 0
        return self._contrast_of(math.gcd(_GROUPS, level.teacher[0]), pool_size)

    def _contrast_of(self, groups: int, pool_size: int) -> dict[str, Any]:
        """Return the options of the contrast, with these numbers where the options say ``'auto'``."""
        options = {name: getattr(self, name) for name in ('contrast', 'negatives', 'temperature', 'patch_size')}
        options['groups'] = groups if self.groups == 'auto' else self.groups
        return {**options, 'pool_size': pool_size if self.pool_size == 'auto' else self.pool_size}

    def keep(self, shape: tuple[int, int, int], level: int) -> Tensor:
        """Return this iteration's (B, 1, H, W) mask of a level, True where kept."""
        if self.mask.type == 'centre':
            return losses.centre_keep(shape)
        return losses.random_keep(shape, 0.75 if self.mask.ratio is None else self.mask.ratio, self.generator(level))


class PlainProjector(nn.Module):
    """``conv2(relu(conv1(keep * align(x))))`` with 3x3 convolutions, in torch's default initialisation."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.align = nn.Conv2d(student, teacher, 1)
        self.conv1, self.conv2 = (nn.Conv2d(teacher, teacher, 3, padding=1) for _ in range(2))

    def forward(self, feat: Tensor, keep: Tensor) -> Tensor:
        return self.conv2(losses.masked_align_conv(feat, keep, *_values(self.align, self.conv1)).relu_())


class EnhancedProjector(nn.Module):
    """``(adaptor1(x1) + adaptor2(x2)) / 2`` with ``x1 = relu(block1(keep * align(x)))``, ``x2 = relu(block2(x1))``."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.align = nn.Conv2d(student, teacher, 1)
        convs = (nn.Conv2d(teacher, teacher, 3, padding=1) for _ in range(4))
        self.block1, self.block2, self.adaptor1, self.adaptor2 = convs

    def forward(self, feat: Tensor, keep: Tensor) -> Tensor:
        x1 = losses.masked_align_conv(feat, keep, *_values(self.align, self.block1)).relu_()
        x2 = self.block2(x1).relu_()
        # one convolution over both inputs: no two maps to add
        weight1, bias1, weight2, bias2 = _values(self.adaptor1, self.adaptor2)
        weight = torch.cat([weight1, weight2], 1) / 2  # (C, 2*C, 3, 3)
        return F.conv2d(torch.cat([x1, x2], 1), weight, (bias1 + bias2) / 2, padding=1)  # x: (B, 2*C, H, W)


def _values(*convs: nn.Module) -> list[Any]:
    return [value for conv in convs for value in (conv.weight, conv.bias)]
