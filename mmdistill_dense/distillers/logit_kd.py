"""LogitKD: distillation of class scores."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from mmdistill_dense.distillers.feature import SCORES_HAVE_NAMES, FeatureDistiller, Level
from mmdistill_dense.distillers.presets import AUTO, CANONICAL, Settings, for_both
from mmdistill_dense.distillers.schedule import SCORES_RATIO
from mmdistill_dense.losses import sigmoid_divergence, softmax_divergence
from mmdistill_dense.networks.class_pairs import ClassPairs, check_groups
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Activation, Resize, check_classes, check_positive, check_scores


@DISTILLERS.register_module()
class LogitKD(FeatureDistiller):
    """Per-pixel distillation of class scores.

    ``KL(softmax(z_t / T) || softmax(z_s / T))`` summed over the C classes, averaged over batch and pixels, times T²;
    with ``activation='sigmoid'`` the C channels are independent yes/no scores (anchors x classes of a dense detection
    head). All pixels count, those with an ignored label too. Maps ``(B, C, H, W)``; no parameters, cost O(BCHW).

    With a teacher of other classes (its option ``classes``), both sides are compared over the groups of shared classes
    alone, see :class:`~mmdistill_dense.networks.class_pairs.ClassPairs`.

    The default tap is segmentation's main head; a detector names its own, e.g. ``student_tap='bbox_head.retina_cls'``.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015,
    https://arxiv.org/abs/1503.02531, eq. 1 and section 2.1, applied per pixel.

    Args:
        student_tap, teacher_tap, teacher, loss_weight, balance, schedule: See :class:`FeatureDistiller`.
        temperature: T. Defaults to 1.
        activation: ``'softmax'`` or ``'sigmoid'``. Defaults to ``'softmax'``; a head with one channel (binary, with
            ``out_channels=1``) needs ``'sigmoid'``.
        rest_rows: With such a teacher, pixels where it sees classes that are not shared: ``'keep'`` compares them as
            all others, ``'weigh'`` by its probability of shared classes. Defaults to ``'keep'``.
        resize: Whose scores are resized where the maps differ in size, e.g. between a transformer of stride 4 and a
            convolutional network of stride 8. Defaults to ``'student'``; ``None`` refuses such a pair.

    Raises:
        ValueError: For a temperature that is not positive or an unknown activation; in :meth:`setup` for scores whose
            classes do not come first (tokens), and for a softmax over one channel.
    """

    SETTINGS: ClassVar[Settings] = {
        AUTO: for_both(balance=dict(ratio=SCORES_RATIO)),
        CANONICAL: for_both(balance=dict(ratio=SCORES_RATIO), temperature=1.0),
    }
    needs_scores: ClassVar[bool] = True
    no_auto: ClassVar[str] = SCORES_HAVE_NAMES

    def __init__(
        self,
        student_tap: TapOption = 'decode_head.conv_seg',
        teacher_tap: TapOption | None = None,
        *,
        temperature: float = 1.0,
        activation: Activation = 'softmax',
        rest_rows: Literal['keep', 'weigh'] = 'keep',
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        # no alignment: a mix of class scores has no meaning
        super().__init__(student_tap, teacher_tap, align='none', resize=resize, **kwargs)
        check_positive('temperature', temperature)
        self.temperature = temperature
        self.activation = activation
        if rest_rows == 'weigh' and activation != 'softmax':
            raise ValueError("rest_rows='weigh' belongs to activation='softmax'.")
        self.rest_rows = rest_rows
        self.divergence = softmax_divergence if activation == 'softmax' else sigmoid_divergence

    def build_level(self, level: Level) -> None:
        """Check that the level holds class scores that the activation can compare."""
        check_scores(self.key, level.name, level.student)
        if self.activation == 'softmax':
            check_classes(self.key, level.name, level.student[0], f"{self.key}.activation='sigmoid'")
        if self.maps_classes and self.scores(level) > 1 and self.activation == 'softmax':
            raise ValueError(f"{self.key}: {level.name} has several anchors: use HeadOutputKD with form='softmax'.")
        if self.rest_rows == 'weigh' and not self.maps_classes:
            raise ValueError(f"{self.key}.rest_rows='weigh' is for a teacher of other classes (model.teacher.classes).")

    def by_class(self, level: Level) -> bool:
        return self.maps_classes

    def check_classes(self, pairs: ClassPairs) -> None:
        check_groups(self.key, pairs, self.activation == 'softmax')

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        """Return ``loss_kd`` of one pair of score maps."""
        if self.pairs is not None and self.activation == 'softmax':
            weight = self.pairs.mass(teacher) if self.rest_rows == 'weigh' else None
            student, teacher = self.pairs.softmax(student, teacher)
            return {'loss_kd': softmax_divergence(student, teacher, temperature=self.temperature, weight=weight)}
        if self.pairs is not None:
            student, teacher = self.pairs.anchors(student, teacher)
        return {'loss_kd': self.divergence(student, teacher, temperature=self.temperature)}
