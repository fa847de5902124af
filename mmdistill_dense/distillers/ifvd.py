"""IFVD: variation of features within a class."""

from typing import Any, ClassVar

from torch import Tensor

from mmdistill_dense.distillers.base import Shapes
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.ground_truth import classes_of_head, semantic_labels
from mmdistill_dense.losses import prototype_distance
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Count

_LABELS = 255  # classes of an 8-bit label map, whose last value usually marks ignored pixels


@DISTILLERS.register_module()
class IFVD(FeatureDistiller):
    """Intra-class feature variation: match the similarity of each position to the prototype of its class.

    With the label ``y[b, n]`` of position ``n`` of a map ``(B, C, H, W)`` (nearest pixel of the label map) and the
    prototype ``p[b, k]`` = mean of the positions of class ``k`` in image ``b``, of each network::

        m[b, n]   = cos(x[b, :, n], p[b, y[b, n]])
        loss_ifvd = 1 / (B H W) * sum over b, n of  (m_s[b, n] - m_t[b, n])²

    Positions with an ignored label add nothing, but count in B H W, as in the released code.

    Source: Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020,
    https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/230_ECCV_2020_paper.php, without its discriminator. Options:
    [docs/methods/ifvd.md](../methods/ifvd.md).
    """

    needs: ClassVar[tuple[str, ...]] = ('map', 'positions', 'directions')
    aligns_channels: ClassVar[bool] = False  # cosines have none
    needs_labels = True
    fixed: ClassVar[tuple[str, ...]] = ('align',)
    student_tap, resize = 'decode_head.conv_seg:input', 'student'

    def __init__(self, *taps: TapOption | None, num_classes: Count | None = None, **options: Any) -> None:
        super().__init__(*taps, **options)
        self.class_count = num_classes  # mmdet's NumClassCheckHook compares each `num_classes` with the data

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Pair the levels and read the number of classes from the teacher, or the student if it may have others."""
        super().setup(student, teacher)
        if self.class_count is None:
            other_classes = self.teacher is not None and self.teacher.option.other_classes
            count = self.state.classes if other_classes else classes_of_head(self.teacher, 'decode_head.conv_seg')
            self.class_count = count or _LABELS

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> dict[str, Tensor]:
        assert self.class_count is not None, 'known since setup'
        labels = semantic_labels(data_samples, student.shape[2:], self.key, self.state.ignored_labels)
        distance = prototype_distance(student, teacher, labels.to(student.device), num_classes=self.class_count)
        return {'loss_ifvd': distance}
