"""AT: attention transfer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.losses import attention_distance
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Reduction, Resize, check_map, check_positions


@DISTILLERS.register_module()
class AT(FeatureDistiller):
    """Attention transfer: match the spatial attention maps of student and teacher.

    With the attention map ``q[b, n] = sum_c |x[b, c, n]|^power`` of a map ``(B, C, H, W)``, ``n`` over its N = H x W
    positions::

        loss_at = mean over images b (and, with reduction='mean', over positions) of
                  || q_s[b] / |q_s[b]| - q_t[b] / |q_t[b]| ||²

    Student and teacher may differ in channels. The loss of a batch is the mean of the losses of its images. No
    parameters, cost O(BCHW).

    Source: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017, https://arxiv.org/abs/1612.03928,
    eq. 2 for one pair of layers. The paper halves the norm of the difference; the authors' code and CIRKD's runs use
    the squared difference, averaged over batch and positions, as ``reduction='mean'`` here. ``reduction='sum'`` and
    ``resize`` are ours.

    Args:
        student_tap, teacher_tap, teacher, loss_weight, balance, schedule, resize: See :class:`FeatureDistiller`. The
            default tap is the last stage of the backbone, ``resize`` defaults to ``'student'``.
        power: Exponent of the activations; a higher one emphasises strong activations. Defaults to 2.
        reduction: ``'mean'``, whose weight depends on the map's size (1e3 to 1e4), or ``'sum'``, with values from 0 to
            2 at any size: for levels of an FPN. Defaults to ``'mean'``.

    Raises:
        ValueError: For taps that are no maps of two positions or more, a power below 1 or an unknown reduction.

    Example::

        at=dict(type='AT', student_tap='neck', reduction='sum')
    """

    def __init__(
        self,
        student_tap: TapOption = 'backbone[-1]',
        teacher_tap: TapOption | None = None,
        *,
        power: float = 2.0,
        reduction: Reduction = 'mean',
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, align='auto', resize=resize, **kwargs)
        if power < 1:
            raise ValueError(f'power must be >= 1, got {power}.')
        self.power = power
        self.reduction = reduction

    def build_align(self, level: Level) -> None:
        """Check that the level is a map; attention maps have no channels to align."""
        check_map(self.key, level.name, level.student)
        check_positions(self.key, level.name, level.student, level.teacher)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        """Return ``loss_at`` of one pair of maps."""
        return {'loss_at': attention_distance(student, teacher, power=self.power, reduction=self.reduction)}
