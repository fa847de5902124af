"""CWD: channel-wise distillation."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.ground_truth import class_lengths
from mmdistill_dense.losses import channel_divergence
from mmdistill_dense.losses.tensors import loss_dtype
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Positive


@DISTILLERS.register_module()
class CWD(FeatureDistiller):
    """Channel-wise distillation: match the distribution of each channel over the positions.

    With ``p = softmax(x / T)`` over the positions of one channel of one image, maps ``(B, C, H, W)``::

        loss_cwd = T² / (B C) * sum over images b and channels c of  KL(p_t[b, c, :] || p_s[b, c, :])

    Where the channels differ, a 1x1 convolution without a bias, which the softmax would cancel. ``norm`` first
    standardises the channels of both maps over the batch and the positions, ``(x - mean) / sqrt(var + 1e-5)``, with the
    statistics of one process's batch, as mmyolo does for RTMDet.

    Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
    https://arxiv.org/abs/2011.13256, section 3.2, in the form of their code and of mmrazor. Options:
    [docs/methods/cwd.md](../methods/cwd.md).
    """

    needs: ClassVar[tuple[str, ...]] = ('map', 'positions')

    student_tap, resize = 'decode_head.conv_seg', 'student'
    temperature: Positive = 4.0
    norm: bool = False

    def build_align(self, level: Level) -> nn.Module | None:
        if self.by_class(level):
            return None
        align = super().build_align(level)
        if align is not None and level.name.count('.conv_seg ') == 2:  # a convolution would mix the classes
            raise ValueError(
                f'{self.key}: {level.name} has {level.student[0]} class scores of the student and {level.teacher[0]} '
                "of the teacher. A binary head needs out_channels=2, other classes model.teacher.classes='auto'."
            )
        if align is not None:
            align.register_parameter('bias', None)
        return align

    def by_class(self, level: Level) -> bool:
        if not self.maps_classes or ':input' in level.name:
            return False
        return (level.student[0], level.teacher[0]) == class_lengths(self.teacher, self.state.classes)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        if self.pairs is not None and self.by_class(self.levels[level]):
            student, teacher = self.pairs.softmax(student, teacher, shift=False)
        if self.norm:
            student, teacher = (
                F.batch_norm(x.to(loss_dtype(x)), None, None, training=True) for x in (student, teacher)
            )
        return {'loss_cwd': channel_divergence(student, teacher, temperature=self.temperature)}
