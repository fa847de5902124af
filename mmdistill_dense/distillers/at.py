"""AT: attention transfer."""

from typing import ClassVar

from torch import Tensor

from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.losses import attention_distance
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import OneOrMore, Reduction


@DISTILLERS.register_module()
class AT(FeatureDistiller):
    """Attention transfer: match the spatial attention maps of student and teacher.

    With the attention map ``q[b, n] = sum_c |x[b, c, n]|^power`` of maps ``(B, C, H, W)`` over their positions n::

        loss_at = mean over b (and n) of  (q_s[b, n] / |q_s[b]| - q_t[b, n] / |q_t[b]|)²

    ``reduction='mean'`` is the mean over images and positions, as released; ``'sum'`` adds up the positions.

    Source: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017, https://arxiv.org/abs/1612.03928,
    eq. 2, squared as in their code. Options: [docs/methods/at.md](../methods/at.md).
    """

    needs: ClassVar[tuple[str, ...]] = ('map', 'positions')
    aligns_channels: ClassVar[bool] = False  # attention maps have none

    fixed: ClassVar[tuple[str, ...]] = ('align',)
    student_tap, resize = 'backbone[-1]', 'student'
    power: OneOrMore = 2.0
    reduction: Reduction = 'mean'

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        return {'loss_at': attention_distance(student, teacher, power=self.power, reduction=self.reduction)}
