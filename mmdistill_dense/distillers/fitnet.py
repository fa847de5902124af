"""FitNet: hints from the teacher's features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.losses import feature_mimic
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Align, Resize, check_map


@DISTILLERS.register_module()
class FitNet(FeatureDistiller):
    """Hint regression: the student's map, behind a regressor, shall equal the teacher's.

    For a student's map ``s`` (B, C, H, W), a teacher's map ``t`` (B, D, H, W) and a 1x1 convolution r from C to D
    channels::

        loss_fitnet = mean over B, D, H, W of (r(s) - t)²

    Several levels (those of an FPN) are summed, each with a regressor of its own. Cost O(BHWCD).

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, eq. 3. The paper takes half of the squared
    norm and trains the student's first half by it alone before it distils class scores. Here, as in the segmentation
    code of CIRKD (whose weight is 10), it is a mean and stands beside the task loss in one training. The regressor has
    a bias, which that code leaves out.

    Example:
        ``dict(type='FitNet', student_tap='neck')``

    Args:
        student_tap: Defaults to the last stage of the backbone.
        teacher_tap: Defaults to the same.
        align: Defaults to ``'conv'``: the regressor stands there also where channels agree.
        resize: Defaults to ``'student'``, which resizes the regressor's output.
        **kwargs: ``teacher``, ``loss_weight``, ``schedule``, ``clip_max_norm`` of :class:`Distiller`.

    Raises:
        ValueError: In :meth:`setup` for taps that are no maps.
    """

    def __init__(
        self,
        student_tap: TapOption = 'backbone[3]',
        teacher_tap: TapOption | None = None,
        *,
        align: Align = 'conv',
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, align=align, resize=resize, **kwargs)

    def build_align(self, level: Level) -> nn.Module | None:
        """Return the regressor; check that the level is a map."""
        check_map(f'distillers.{self.name}', level.name, level.student)
        return super().build_align(level)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        """Return ``loss_fitnet`` of one pair of maps."""
        return {'loss_fitnet': feature_mimic(student, teacher, reduction='mean')}
