"""PKD: distillation by Pearson's correlation of features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Resize, check_map


@DISTILLERS.register_module()
class PKD(FeatureDistiller):
    """Maximise the correlation of each student channel with the teacher's, independent of scale and offset.

    Per level, with maps ``(B, C, H, W)`` whose channels are standardised over the batch and the positions::

        z(x) = (x - mean_{b,h,w} x) / (std_{b,h,w} x + 1e-6)
        loss_pkd = sum_levels mean_{b,c,h,w} (z(F_s) - z(F_t))^2 / 2 = sum_levels mean_c (1 - r_c)

    with Pearson's correlation ``r_c`` of channel c (up to a factor ``(n - 1) / n`` for n values a channel).

    Source: Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient",
    NeurIPS 2022, https://arxiv.org/abs/2207.02039, eq. 3 to 5; constants of the released code (mmrazor). Ours: moments
    instead of standardised maps, with the same values, and a 1x1 convolution where channels differ, which the released
    code refuses.

    The statistics are those of one process's batch, as released: processes do not exchange them. So N processes with b
    pictures each are not equal to one process with N b pictures; the difference falls with the number of positions,
    which is thousands for the lower levels.

    No parameters where channels agree; cost linear in the maps.

    Args:
        student_tap: Defaults to the first four levels of the neck, as released.
        teacher_tap: Defaults to the same.
        resize: Whose map is resized where the sizes differ. Defaults to ``'student'``, as released.
        **kwargs: ``align``, ``teacher``, ``loss_weight`` (as released 6 for Faster R-CNN, and for a Mask R-CNN Swin as
            the teacher of a RetinaNet, else 10), ``schedule``, ``clip_max_norm`` of :class:`FeatureDistiller`.

    Raises:
        ValueError: In :meth:`setup` for taps that are no maps. Maps of one position are compared over the batch.

    Example:
        >>> import torch
        >>> x = torch.rand(2, 4, 8, 8)
        >>> bool(PKD().loss(x, 3 * x + 1, 0)['loss_pkd'].abs() < 1e-6)
        True
    """

    def __init__(
        self,
        student_tap: TapOption = 'neck[:4]',
        teacher_tap: TapOption | None = None,
        *,
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, resize=resize, **kwargs)

    def build_align(self, level: Level) -> nn.Module | None:
        """Return the 1x1 convolution, or ``None``; check that the level is a map."""
        check_map(self.key, level.name, level.student)
        return super().build_align(level)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> Losses:
        """Return ``loss_pkd`` of one level."""
        return {'loss_pkd': losses.standardized_mse(student, teacher)}
