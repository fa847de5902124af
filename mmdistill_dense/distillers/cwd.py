"""CWD: channel-wise distillation."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.ground_truth import class_lengths
from mmdistill_dense.distillers.presets import AUTO, Settings
from mmdistill_dense.losses import channel_divergence
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Resize, check_map, check_positions, check_positive


@DISTILLERS.register_module()
class CWD(FeatureDistiller):
    """Channel-wise distillation: match the distribution of each channel over the positions.

    With ``p = softmax(x / T)`` over the N = H x W positions of one channel of one image, maps ``(B, C, H, W)``::

        loss_cwd = T² / (B C) * sum over images b and channels c of  KL(p_t[b, c, :] || p_s[b, c, :])

    All positions count, those with an ignored label too. The loss of a batch is the mean of the losses of its images.
    Cost O(BCHW). Parameters: a 1x1 convolution per level where the channels differ, without a bias, which the softmax
    over positions would cancel.

    Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
    https://arxiv.org/abs/2011.13256, section 3.2, in the form of their code and of mmrazor (sum over positions, divided
    by B C). For features their first code has batch norm and a ReLU after the convolution; their mmsegmentation code
    and CIRKD's runs have the convolution alone, as here. ``resize`` is ours.

    Args:
        student_tap, teacher_tap, teacher, loss_weight, balance, schedule, align, resize: See :class:`FeatureDistiller`.
            The default tap is segmentation's main head; ``'decode_head.conv_seg:input'`` gives its last features.
            ``resize`` defaults to ``'student'``. Class scores of a teacher of other classes are compared by the groups
            that both have.
        temperature: T. Defaults to 4, the paper's.

    Raises:
        ValueError: For a temperature that is not positive, or taps that are no maps of two positions or more.

    Example::

        cwd=dict(type='CWD', loss_weight=3.0)
    """

    SETTINGS: ClassVar[Settings] = {AUTO: {'seg': {}, 'det': dict(student_tap='auto')}}

    def __init__(
        self,
        student_tap: TapOption = 'decode_head.conv_seg',
        teacher_tap: TapOption | None = None,
        *,
        temperature: float = 4.0,
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, resize=resize, **kwargs)
        check_positive('temperature', temperature)
        self.temperature = temperature

    def build_align(self, level: Level) -> nn.Module | None:
        """Return the 1x1 convolution without a bias, or ``None``; check that the level is a map."""
        check_map(self.key, level.name, level.student)
        check_positions(self.key, level.name, level.student, level.teacher)
        if self.by_class(level):
            return None
        align = super().build_align(level)
        if align is not None:
            align.register_parameter('bias', None)
        return align

    def by_class(self, level: Level) -> bool:
        if not self.maps_classes or ':input' in level.name:
            return False
        return (level.student[0], level.teacher[0]) == class_lengths(self.teacher, self.state.classes)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        """Return ``loss_cwd`` of one pair of maps."""
        if self.pairs is not None and self.by_class(self.levels[level]):
            student, teacher = self.pairs.softmax(student, teacher)
        return {'loss_cwd': channel_divergence(student, teacher, temperature=self.temperature)}
