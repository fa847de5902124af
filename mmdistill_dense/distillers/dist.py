"""DIST: correlation of class scores."""

from typing import Any, ClassVar

from torch import Tensor

from mmdistill_dense.distillers.feature import SCORES_HAVE_NAMES, FeatureDistiller, Level
from mmdistill_dense.distillers.ground_truth import check_competing
from mmdistill_dense.losses import correlation_distance
from mmdistill_dense.networks.class_pairs import ClassPairs, check_complete
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Activation, Positive, check_classes, check_scores, check_weights


@DISTILLERS.register_module()
class DIST(FeatureDistiller):
    """Match the correlation of class scores instead of the scores themselves.

    With ``s = softmax(z_s / T)``, ``t = softmax(z_t / T)`` (or the sigmoids) and Pearson's correlation ρ::

        loss_dist = T² * ( beta  * (1 - mean over rows    of ρ(s[r, :], t[r, :]))      between the classes of a row
                         + gamma * (1 - mean over classes of ρ(s[:, k], t[:, k])) )    between the rows of a class

    Rows are the pixels of all images of the process for maps ``(B, K, H, W)``, the rows themselves for ``(R, K)``.
    Ours: a bound on the gradient of scores that hardly vary, see :func:`losses.correlation_distance`.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
    https://arxiv.org/abs/2205.10536. Options: [docs/methods/dist.md](../methods/dist.md).
    """

    needs_scores: ClassVar[bool] = True
    no_auto: ClassVar[str] = SCORES_HAVE_NAMES

    fixed: ClassVar[tuple[str, ...]] = ('align',)  # a mix of class scores has no meaning
    student_tap, align, resize = 'decode_head.conv_seg', 'none', 'student'
    temperature: Positive = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    activation: Activation = 'softmax'

    def __init__(self, *taps: TapOption | None, **options: Any) -> None:
        super().__init__(*taps, **options)
        check_weights(beta=self.beta, gamma=self.gamma)

    def build_level(self, level: Level) -> None:
        """Check that the level holds class scores that can be correlated."""
        check_scores(self.key, level.name, level.student)
        if self.activation == 'softmax' or self.beta:
            remedy = f"{self.key}.activation='sigmoid' and {self.key}.beta=0"
            check_classes(self.key, level.name, level.student[0], remedy)
        if self.activation == 'softmax':
            check_competing(self.key, self.teacher, self.teacher_taps)
        if self.maps_classes and self.scores(level) > 1:
            raise ValueError(f'{self.key}: {level.name} has several anchors, of other classes: use LogitKD.')

    def by_class(self, level: Level) -> bool:
        return self.maps_classes

    def check_classes(self, pairs: ClassPairs) -> None:
        check_complete(self.key, pairs)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        if self.pairs is not None:
            merge = self.pairs.softmax if self.activation == 'softmax' else self.pairs.sigmoid
            student, teacher = merge(student, teacher)
        options: dict[str, Any] = dict(temperature=self.temperature, activation=self.activation)
        return {'loss_dist': correlation_distance(student, teacher, beta=self.beta, gamma=self.gamma, **options)}
