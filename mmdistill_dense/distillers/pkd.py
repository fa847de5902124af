"""PKD: distillation by Pearson's correlation of features."""

from typing import ClassVar

from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.registry import DISTILLERS


@DISTILLERS.register_module()
class PKD(FeatureDistiller):
    """Maximise the correlation of each student channel with the teacher's, independent of scale and offset.

    Per level, with maps ``(B, C, H, W)`` whose channels are standardised over the batch and the positions::

        z(x) = (x - mean_{b,h,w} x) / (std_{b,h,w} x + 1e-6)
        loss_pkd = sum_levels mean_{b,c,h,w} (z(F_s) - z(F_t))^2 / 2 = sum_levels mean_c (1 - r_c) (n - 1) / n

    Source: Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient",
    NeurIPS 2022, https://arxiv.org/abs/2207.02039, eq. 3 to 5. The statistics are those of one process's batch, as
    released. Ours: a 1x1 convolution where channels differ. Options: [docs/methods/pkd.md](../methods/pkd.md).
    """

    needs: ClassVar[tuple[str, ...]] = ('map',)

    student_tap, resize = 'neck[:4]', 'student'

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> Losses:
        return {'loss_pkd': losses.standardized_mse(student, teacher)}
