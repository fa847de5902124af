"""FitNet: hints from the teacher's features."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.presets import CANONICAL, Settings
from mmdistill_dense.losses import feature_mimic
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Align, Resize, check_map


@DISTILLERS.register_module()
class FitNet(FeatureDistiller):
    """Hint regression: predict the teacher's map from the student's by a 1x1 convolution.

    For a student's map ``s`` (B, C, H, W), a teacher's map ``t`` (B, D, H, W) and a 1x1 convolution r from C to D
    channels::

        loss_fitnet = mean over B, D, H, W of (r(s) - t)²

    Several levels (those of an FPN) are summed, each with a regressor of its own. Cost O(BHWCD).

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, https://arxiv.org/abs/1412.6550, eq. 3. The
    paper uses half of the squared norm and first trains the lower half of the student by it alone, then distils class
    scores. Here, as in the segmentation code of CIRKD (weight 10), the loss is a mean and is added to the task loss.
    The regressor has a bias, unlike in that code.

    Example:
        ``dict(type='FitNet', student_tap='neck')``

    Args:
        student_tap: Defaults to the last stage of the backbone.
        teacher_tap: Defaults to the same.
        align: Defaults to ``'conv'``: a regressor also where channels agree.
        resize: Defaults to ``'student'``, which resizes the regressor's output.
        **kwargs: ``teacher``, ``loss_weight``, ``balance``, ``schedule``, ``clip_max_norm`` of :class:`Distiller`.

    Raises:
        ValueError: In :meth:`setup` for taps that are no maps.
    """

    SETTINGS: ClassVar[Settings] = {
        **FeatureDistiller.SETTINGS,
        CANONICAL: {'seg': dict(student_tap='auto[-1]'), 'det': dict(student_tap='auto')},
    }

    def __init__(
        self,
        student_tap: TapOption = 'backbone[-1]',
        teacher_tap: TapOption | None = None,
        *,
        align: Align = 'conv',
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, align=align, resize=resize, **kwargs)

    def build_align(self, level: Level) -> nn.Module | None:
        """Return the regressor; check that the level is a map."""
        check_map(self.key, level.name, level.student)
        return super().build_align(level)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        """Return ``loss_fitnet`` of one pair of maps."""
        return {'loss_fitnet': feature_mimic(student, teacher, reduction='mean')}
