"""LogitKD: distillation of class scores."""

from typing import Any, ClassVar, Literal

from torch import Tensor

from mmdistill_dense.distillers.feature import SCORES_HAVE_NAMES, FeatureDistiller, Level
from mmdistill_dense.distillers.ground_truth import check_competing
from mmdistill_dense.losses import sigmoid_divergence, softmax_divergence, standardised
from mmdistill_dense.networks.class_pairs import ClassPairs, check_groups
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Activation, Positive, check_classes, check_scores


@DISTILLERS.register_module()
class LogitKD(FeatureDistiller):
    """Per-pixel distillation of class scores.

    For class scores ``z`` (B, C, H, W), with ``p = softmax(z / T)``; with ``activation='sigmoid'`` the C channels are
    independent yes/no scores (anchors x classes of a dense detection head)::

        loss_kd = T² * mean over b, h, w of  sum_c p_t (log p_t - log p_s)

    With ``standardise=True``, ``z`` are first standardised over the classes of each position, see
    :func:`~mmdistill_dense.losses.standardised`.

    With a teacher of other classes, the groups of shared classes are compared, see
    :class:`~mmdistill_dense.networks.class_pairs.ClassPairs`.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015,
    https://arxiv.org/abs/1503.02531, eq. 1 and section 2.1, applied per pixel. Options:
    [docs/methods/logit_kd.md](../methods/logit_kd.md).
    """

    needs_scores: ClassVar[bool] = True
    no_auto: ClassVar[str] = SCORES_HAVE_NAMES

    fixed: ClassVar[tuple[str, ...]] = ('align',)  # a mix of class scores has no meaning
    student_tap, align, resize = 'decode_head.conv_seg', 'none', 'student'
    temperature: Positive = 1.0
    activation: Activation = 'softmax'
    standardise: bool = False
    rest_rows: Literal['keep', 'weigh'] = 'keep'

    def __init__(self, *taps: TapOption | None, **options: Any) -> None:
        super().__init__(*taps, **options)
        if self.standardise and self.activation != 'softmax':
            raise ValueError("standardise needs class scores that compete: activation='softmax'.")
        if self.rest_rows == 'weigh' and self.activation != 'softmax':
            raise ValueError("rest_rows='weigh' belongs to activation='softmax'.")
        self.divergence = softmax_divergence if self.activation == 'softmax' else sigmoid_divergence

    def build_level(self, level: Level) -> None:
        """Check that the level holds class scores that the activation can compare."""
        check_scores(self.key, level.name, level.student)
        if self.activation == 'softmax':
            check_classes(self.key, level.name, level.student[0], f"{self.key}.activation='sigmoid'")
            check_competing(self.key, self.teacher, self.teacher_taps)
        if self.standardise:
            check_standardised(self.key, level.student[0], self.maps_classes)
        if self.maps_classes and self.scores(level) > 1 and self.activation == 'softmax':
            raise ValueError(f"{self.key}: {level.name} has several anchors: use HeadOutputKD with form='softmax'.")
        if self.rest_rows == 'weigh' and not self.maps_classes:
            raise ValueError(f"{self.key}.rest_rows='weigh' is for a teacher of other classes (model.teacher.classes).")

    def by_class(self, level: Level) -> bool:
        return self.maps_classes

    def check_classes(self, pairs: ClassPairs) -> None:
        check_groups(self.key, pairs, self.activation == 'softmax')

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        if self.standardise:
            student, teacher = standardised(student), standardised(teacher)
        if self.pairs is not None and self.activation == 'softmax':
            weight = self.pairs.mass(teacher) if self.rest_rows == 'weigh' else None
            student, teacher = self.pairs.softmax(student, teacher)
            return {'loss_kd': softmax_divergence(student, teacher, temperature=self.temperature, weight=weight)}
        if self.pairs is not None:
            student, teacher = self.pairs.anchors(student, teacher)
        return {'loss_kd': self.divergence(student, teacher, temperature=self.temperature)}


def check_standardised(key: str, classes: int, other_classes: bool) -> None:
    """Refuse scores that standardising leaves nothing of, or whose groups it would change."""
    if classes < 3:
        raise ValueError(f'{key}.standardise: with {classes} classes, standardised scores are constants: leave it out.')
    if other_classes:
        raise ValueError(f'{key}.standardise is for a teacher of the same classes: groups of scores have no spread.')
