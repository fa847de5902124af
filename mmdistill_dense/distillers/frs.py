"""FRS: maps and scores of a detector, weighed by how rich the teacher finds a place."""

from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mmdistill_dense import losses
from mmdistill_dense.config.resolve import ModelConfig
from mmdistill_dense.distillers.base import Distiller, Losses, Recorded, Shapes
from mmdistill_dense.distillers.ground_truth import check_independent
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS, derives
from mmdistill_dense.utils.distributed import mean_over_ranks
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import check_map, check_weights

_KERNELS = {'conv3': 3, 'conv': 1}


@DISTILLERS.register_module()
class FRS(Distiller):
    """Match the neck's maps and the class scores where the teacher's highest score of any class is large.

    Per level, with maps ``F (B, C, H, W)``, the student's behind a convolution, and logits ``Z (B, A K, H, W)``::

        M            = max over the channels of sigmoid(Z_t)                                         (B, H, W)
        loss_feature = feature_weight * sum_levels  sum_{b,c,h,w} M (F_t - conv F_s)^2 / sum M
        loss_class   = class_weight   * sum_levels  sum_{b,k,h,w} M BCE(sigmoid Z_s, sigmoid Z_t) / sum M

    Source: Du et al., "Distilling Object Detectors with Feature Richness", NeurIPS 2021,
    https://arxiv.org/abs/2111.00674, and its released code. Ours: the cross-entropy from logits, and ``sum M`` over all
    processes. Options: [docs/methods/frs.md](../methods/frs.md).
    """

    needs_scores: ClassVar[bool] = True
    no_auto: ClassVar[str] = (
        "it compares class scores beside the maps, and only you can name them: leave student_tap out, or ['neck', "
        "'rpn_head[0]'] for a two-stage detector"
    )

    student_tap = ('neck', 'bbox_head[0]')
    feature_weight: float = 0.005
    class_weight: float = 0.02
    align: Literal['conv3', 'conv', 'none'] = 'conv3'

    def __init__(self, *taps: TapOption | None, **options: Any) -> None:
        super().__init__(*taps, **options)
        if len(self.student_taps) != 2 or any(weight != 1 for weight in self.tap_weights):
            pairs = [(str(tap), weight) for tap, weight in zip(self.student_taps, self.tap_weights, strict=True)]
            raise ValueError(f'student_tap must be two taps without weights, e.g. {self.student_tap}, got {pairs}.')
        check_weights(feature_weight=self.feature_weight, class_weight=self.class_weight)
        self.convs = nn.ModuleList()

    def check_networks(self, key: str, student: ModelConfig, teacher: ModelConfig) -> None:
        super().check_networks(key, student, teacher)
        for side, config, taps in (('student', student, self.student_taps), ('teacher', teacher, self.teacher_taps)):
            head = config.model.get(taps[1].path.partition('.')[0]) or {}
            check_independent(key, side, head)
            if derives(head, config.scope, 'YOLOXHead'):
                problem = f'the {side} learns class scores where objects are alone, so they tell no richness'
                raise ValueError(f"{key}: {problem}. Use type='PKD'.")

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Check the levels, and make the convolutions."""
        (_, maps, s_shapes, t_shapes), (_, scores, own_scores, their_scores) = self.paired_shapes(student, teacher)
        if len(s_shapes) != len(own_scores):
            raise ValueError(
                f'{self.key}: {maps} gives {len(s_shapes)} levels and {scores} {len(own_scores)}: tap the levels that '
                "the head gets, and its list of scores, as in ['neck', 'bbox_head[0]']."
            )
        if self.class_weight and self.maps_classes:
            raise ValueError(f'{self.key}: scores of other classes have other channels: set class_weight=0.')
        for level, shapes in enumerate(zip(s_shapes, t_shapes, own_scores, their_scores, strict=True)):
            sizes_chw = [shape[1:] for shape in shapes]
            for name, shape in zip((maps, maps, scores, scores), sizes_chw, strict=True):
                check_map(self.key, name, shape)
            sizes = {tuple(shape[1:]) for shape in sizes_chw}
            if len(sizes) > 1:
                problem = f'level {level} of {maps} and {scores} has maps of {" and ".join(map(str, sizes))}'
                raise ValueError(f'{self.key}: {problem}: tap levels of the same stride on both sides.')
            if self.class_weight and sizes_chw[2][0] != sizes_chw[3][0]:
                problem = f'{scores} has {sizes_chw[2][0]} channels and {sizes_chw[3][0]}'
                remedy = 'both heads need the same classes and anchors, or set class_weight=0'
                raise ValueError(f'{self.key}: {problem}: {remedy}.')
            channels, width = sizes_chw[0][0], sizes_chw[1][0]
            kernel = _KERNELS.get(self.align, 0) if self.feature_weight else 0
            if self.feature_weight and not kernel and channels != width:
                raise ValueError(f"{self.key}: {maps} has {channels} and {width} channels: set align='conv3'.")
            self.convs.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2) if kernel else nn.Identity())

    def forward(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        """Return ``loss_feature`` and ``loss_class``; a term of weight 0 is left out."""
        (maps, scores), (their_maps, their_scores) = (
            [side[str(tap)] for tap in taps]
            for side, taps in ((student, self.student_taps), (teacher, self.teacher_taps))
        )
        richness = [losses.feature_richness(logits) for logits in their_scores]
        totals = mean_over_ranks(torch.stack([weight.sum() for weight in richness]))
        named_terms: Losses = {}
        if self.feature_weight:
            terms = [
                losses.rich_squares(conv(s), t, rich, total)
                for conv, s, t, rich, total in zip(self.convs, maps, their_maps, richness, totals, strict=True)
            ]
            named_terms['loss_feature'] = self.feature_weight * torch.stack(terms).sum()
        if self.class_weight:
            terms = [
                losses.rich_entropy(s, t, rich, total)
                for s, t, rich, total in zip(scores, their_scores, richness, totals, strict=True)
            ]
            named_terms['loss_class'] = self.class_weight * torch.stack(terms).sum()
        return named_terms
