"""IFVD: variation of features within a class."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from mmdistill_dense.distillers.base import Shapes
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.ground_truth import classes_of_head, semantic_labels
from mmdistill_dense.distillers.presets import AUTO, Settings
from mmdistill_dense.losses import prototype_distance
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Resize, check_count, check_directions, check_map, check_positions

_LABELS = 255  # classes of an 8-bit label map, whose last value usually marks ignored pixels


@DISTILLERS.register_module()
class IFVD(FeatureDistiller):
    """Intra-class feature variation: match the similarity of each position to the prototype of its class.

    With the label ``y[b, n]`` of position ``n`` of a map ``(B, C, H, W)`` (nearest pixel of the label map) and the
    prototype ``p[b, k]`` = mean of the positions of class ``k`` in image ``b``::

        m[b, n]   = cos(x[b, :, n], p[b, y[b, n]])
        loss_ifvd = 1 / (B H W) * sum over b, n of  (m_s[b, n] - m_t[b, n])²

    Each image and each network has its own prototypes; the gradient flows through the student's. Positions with an
    ignored label belong to no prototype and add nothing, but count in B H W, as in the released code. So the loss of a
    batch is the mean of the losses of its images. Student and teacher may differ in channels. No parameters. All K
    classes at once: memory O(B N K) beside the maps, time O(B N C K).

    Source: Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020,
    https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/230_ECCV_2020_paper.php. The paper adds pixel-wise
    distillation (:class:`LogitKD`) and a discriminator, which is left out.

    Args:
        student_tap, teacher_tap, teacher, loss_weight, balance, schedule, resize: See :class:`FeatureDistiller`. The
            default tap is the features before the class scores, as released; ``resize`` defaults to ``'student'``.
        num_classes: Labels from this value on are ignored, as are those that the student's head ignores
            (``ignore_index``). Defaults to the classes of the teacher's ``decode_head``, or 255 if it has none.

    Raises:
        ValueError: For taps that are no maps of two positions and two channels or more, ``num_classes`` below 1; in
            training, for a batch without label maps.

    Example::

        ifvd=dict(type='IFVD', loss_weight=20.0)
    """

    SETTINGS: ClassVar[Settings] = {AUTO: {'seg': dict(student_tap='auto')}}
    needs_labels = True

    def __init__(
        self,
        student_tap: TapOption = 'decode_head.conv_seg:input',
        teacher_tap: TapOption | None = None,
        *,
        num_classes: int | None = None,
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, align='auto', resize=resize, **kwargs)
        if num_classes is not None:
            check_count('num_classes', num_classes, 1)
        self.num_classes = num_classes

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Pair the levels and read the number of classes from the teacher, or the student if it may have others."""
        super().setup(student, teacher)
        if self.num_classes is None:
            others = self.teacher is not None and self.teacher.option.other_classes
            own = self.state.classes if others else classes_of_head(self.teacher, 'decode_head.conv_seg')
            self.num_classes = own or _LABELS

    def build_align(self, level: Level) -> None:
        """Check that the level is a map; cosines have no channels to align."""
        check_map(self.key, level.name, level.student)
        check_positions(self.key, level.name, level.student, level.teacher)
        check_directions(self.key, level.name, level.student[0])

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> dict[str, Tensor]:
        """Return ``loss_ifvd`` of one pair of maps."""
        assert self.num_classes is not None, 'known since setup'
        labels = semantic_labels(data_samples, student.shape[2:], self.key, self.state.ignored_labels)
        distance = prototype_distance(student, teacher, labels.to(student.device), num_classes=self.num_classes)
        return {'loss_ifvd': distance}
