"""Distillation of dense head outputs, and the comparisons that it shares with R-CNN heads."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mmdistill_dense.distillers.base import Losses, Shapes
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.ground_truth import class_lengths, scores_of_head
from mmdistill_dense.losses import correlation_distance, sigmoid_divergence, smooth_l1, softmax_divergence
from mmdistill_dense.networks.class_pairs import ClassPairs, check_groups
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import check_classes, check_scores

Comparison = Callable[[Tensor, Tensor], Tensor]

_DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    'softmax': softmax_divergence,
    'sigmoid': sigmoid_divergence,
    'dist': correlation_distance,
}


@DISTILLERS.register_module()
class HeadOutputKD(FeatureDistiller):
    """Match the output maps of dense heads: box regression or class scores.

    Per recorded map ``(N, A * K, H, W)``; a head that all levels share is called once per level, and the terms are
    summed::

        form='smooth_l1', 'l1':  loss_head = mean over all elements of the (smooth) absolute difference
        form='sigmoid':          loss_head = T² * mean over all elements of the binary KL of the scores
        form='softmax':          loss_head = T² * mean over N, A, H, W of the KL over the K classes

    Source: plain output distillation; the released code of MasKD (https://arxiv.org/abs/2205.14589) adds the regression
    forms to its feature loss. Options: [docs/methods/head_output_kd.md](../methods/head_output_kd.md).
    """

    needs_scores: ClassVar[bool] = True
    no_auto: ClassVar[str] = (
        'it compares one output of a head, and only you can say which: name it, e.g. '
        "'bbox_head.retina_reg', which mmdistill taps CONFIG marks, or 'bbox_head[1]' for boxes that a head scales"
    )

    fixed: ClassVar[tuple[str, ...]] = ('align',)  # a mix of outputs has no meaning
    align = 'none'
    form: Literal['smooth_l1', 'l1', 'softmax', 'sigmoid'] = 'smooth_l1'

    def __init__(
        self,
        student_tap: TapOption,
        teacher_tap: TapOption | None = None,
        *,
        beta: float | None = None,
        temperature: float | None = None,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, **options)
        self.compare = comparison(self.form, beta, temperature)
        if num_classes is not None and (self.form != 'softmax' or num_classes < 2):
            raise ValueError(f"num_classes >= 2 belongs to form='softmax', got {num_classes} with form={self.form!r}.")
        self.class_count = num_classes  # mmdet's NumClassCheckHook compares each `num_classes` with the data

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Pair and check the maps; read the number of classes from the teacher where the form needs it."""
        if self.maps_classes and self.class_count is not None:
            raise ValueError(f'{self.key}.num_classes: {self.key} reads it from both heads, so leave it out.')
        if self.form == 'softmax' and self.class_count is None:
            self.class_count = scores_of_head(self.teacher, self.teacher_taps[0].path)
        super().setup(student, teacher)

    def by_class(self, level: Level) -> bool:
        if not self.maps_classes or self.form not in ('softmax', 'sigmoid'):
            return False
        assert self.teacher is not None
        head = self.teacher.config.model.get(self.teacher_taps[0].path.split('.')[0])
        if isinstance(head, Mapping) and head.get('num_classes', 1) == 1:  # an RPN
            return False
        s_classes, t_classes = self._lengths()
        return level.student[0] >= s_classes and level.teacher[0] >= t_classes  # and no centreness

    def check_classes(self, pairs: ClassPairs) -> None:
        super().check_classes(pairs)
        if any(self.by_class(level) for level in self.levels):
            check_groups(self.key, pairs, self.form == 'softmax')

    def _lengths(self) -> tuple[int, int]:
        s_classes, t_classes = class_lengths(self.teacher, self.state.classes)
        background = self.form == 'softmax' and self.class_count == t_classes + 1
        return s_classes + background, t_classes + background

    def build_level(self, level: Level) -> nn.Module | None:
        if self.form in ('softmax', 'sigmoid'):
            check_scores(self.key, level.name, level.student)
        if self.form == 'softmax':
            check_classes(self.key, level.name, self.class_count or level.student[0], f"{self.key}.form='sigmoid'")
        if self.by_class(level):
            self.scores(level, self._lengths())
            return None
        if self.class_count is not None and level.student[0] % self.class_count:
            problem = f'has {level.student[0]} channels, no multiple of num_classes={self.class_count}'
            raise ValueError(f'{self.key}: {level.name} {problem}; set num_classes to the length of one softmax.')
        return None

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> Losses:
        if self.pairs is not None and self.by_class(self.levels[level]):
            if self.form == 'softmax':
                pairs = self.pairs if self.class_count == len(self.pairs.teacher) else self.pairs.with_background()
                return {'loss_head': self.compare(*pairs.softmax(*pairs.folded(student, teacher)))}
            student, teacher = self.pairs.anchors(student, teacher)
        classes = {'softmax': self.class_count, 'sigmoid': 1}.get(self.form)
        if classes is not None:
            student, teacher = (x.reshape(-1, classes, *x.shape[2:]) for x in (student, teacher))  # (B*n, K, H, W)
        return {'loss_head': self.compare(student, teacher)}


def comparison(form: str, beta: float | None, temperature: float | None) -> Comparison:
    """Return the function that compares two outputs."""
    regression = form in ('smooth_l1', 'l1')
    if beta is not None and (form != 'smooth_l1' or beta <= 0):
        raise ValueError(f"beta > 0 belongs to form='smooth_l1', got {beta} with form={form!r}.")
    if temperature is not None and (regression or temperature <= 0):
        raise ValueError(f'temperature > 0 belongs to the forms of class scores, got {temperature} with form={form!r}.')
    if regression:
        return partial(smooth_l1, beta=0.0 if form == 'l1' else 1.0 if beta is None else beta)
    return partial(_DIVERGENCES[form], temperature=1.0 if temperature is None else temperature)
