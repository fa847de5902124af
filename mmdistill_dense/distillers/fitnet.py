"""FitNet: hints from the teacher's features."""

from typing import ClassVar

from torch import Tensor

from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.losses import feature_mimic
from mmdistill_dense.registry import DISTILLERS


@DISTILLERS.register_module()
class FitNet(FeatureDistiller):
    """Hint regression: predict the teacher's map from the student's by a 1x1 convolution.

    For a student's map ``s`` (B, C, H, W), a teacher's map ``t`` (B, D, H, W) and a 1x1 convolution r, one per level::

        loss_fitnet = mean over B, D, H, W of (r(s) - t)²

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, https://arxiv.org/abs/1412.6550, eq. 3. As in
    the segmentation code of CIRKD, the loss is a mean and is added to the task loss. Options:
    [docs/methods/fitnet.md](../methods/fitnet.md).
    """

    needs: ClassVar[tuple[str, ...]] = ('map',)
    student_tap, align, resize = 'backbone[-1]', 'conv', 'student'

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        return {'loss_fitnet': feature_mimic(student, teacher, reduction='mean')}
