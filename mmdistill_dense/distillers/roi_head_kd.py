"""Distillation of R-CNN box and mask heads, on the RoIs that the student sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from mmdistill_dense.config.values import type_name
from mmdistill_dense.distillers.base import Distiller, Losses, Recorded, Shapes
from mmdistill_dense.distillers.ground_truth import class_lengths
from mmdistill_dense.distillers.head_output_kd import comparison
from mmdistill_dense.distillers.logit_kd import check_standardised
from mmdistill_dense.losses import standardised
from mmdistill_dense.networks.class_pairs import ClassPairs
from mmdistill_dense.networks.recording import run_mask_head, run_roi_head
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.distributed import mean_count
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import check_classes

if TYPE_CHECKING:
    from mmdistill_dense.config.resolve import ModelConfig

OUTPUTS = ('bbox_pred', 'cls_score')
MASKS = 'mask_preds'


@DISTILLERS.register_module()
class RoIHeadKD(Distiller):
    """Match the outputs of R-CNN heads: both get the RoIs that the student sampled, each its own features.

    The teacher's output is computed by its frozen RoI head on its own ``features``. For outputs ``(R, D)`` of R RoIs::

        form='smooth_l1', 'l1':      loss_roi = mean over all elements of the (smooth) absolute difference
        form='softmax', 'sigmoid':   loss_roi = T² * mean over RoIs of the KL over the D scores (binary ones summed)
        form='dist':                 loss_roi = as :class:`DIST`, each RoI one row

    For mask logits (R, K, h, w) of the R positive RoIs, ``output='mask_preds'``, ``form='sigmoid'``::

        loss_roi = T² * mean over RoIs and positions of the binary KL, summed over the K classes

    Source: the released code of MasKD (https://arxiv.org/abs/2205.14589), which runs the teacher's whole training step
    and overwrites its RoIs. Ours: masks, and a mean over the RoIs of all processes. Options:
    [docs/methods/roi_head_kd.md](../methods/roi_head_kd.md).
    """

    needs_labels = True  # the proposals, which the student's RPN makes in its own loss
    needs_scores: ClassVar[bool] = True
    fixed: ClassVar[tuple[str, ...]] = ('align', 'teacher_tap')
    teacher_gives: ClassVar[str] = 'roi_head on the same RoIs'
    no_auto: ClassVar[str] = (
        "it compares an output of the RoI head: leave student_tap out for 'roi_head.bbox_head.fc_reg', or name "
        "'roi_head.bbox_head.fc_cls'"
    )

    rois: str | None = None
    output: Literal['bbox_pred', 'cls_score', 'mask_preds'] = 'bbox_pred'
    stage: int = 0
    form: Literal['smooth_l1', 'l1', 'softmax', 'sigmoid', 'dist'] = 'smooth_l1'
    standardise: bool = False

    def __init__(
        self,
        student_tap: str = 'roi_head.bbox_head.fc_reg',
        *,
        features: str = 'neck',
        beta: float | None = None,
        temperature: float | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(student_tap, str):
            raise TypeError(f'student_tap must be one tap, got {student_tap!r}; use a distiller for each.')
        super().__init__(student_tap, features, **options)
        if self.output == MASKS and self.form != 'sigmoid':
            raise ValueError(f"output='mask_preds' are binary scores: set form='sigmoid', got form={self.form!r}.")
        if self.standardise and self.form != 'softmax':
            raise ValueError(f"standardise needs class scores that compete: form='softmax', got form={self.form!r}.")
        self.compare = comparison(self.form, beta, temperature)
        self.rois = self.rois or f'roi_head.{"mask" if self.output == MASKS else "bbox"}_roi_extractor:input[1]'
        self.extra_student_taps = [self.rois]
        self.teacher_parts = ('roi_head',)
        self.tap, self.features = student_tap, features

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Check the student's scores, and the teacher's head by its config."""
        if self.form in ('softmax', 'dist'):
            check_classes(self.key, f'student_tap={self.tap!r}', student[self.tap][0][-1], f"{self.key}.form='sigmoid'")
        if self.standardise:
            check_standardised(self.key, student[self.tap][0][-1], self.maps_classes)
        if self.teacher is None:
            return
        model = self.teacher.config.model
        if 'roi_head' not in model:
            problem = f'{self.teacher.key} is a {model.get("type")} and has no roi_head'
            raise ValueError(f'{self.key}: {problem}; for dense heads use HeadOutputKD.')
        if self.output == MASKS and not model['roi_head'].get('mask_head'):
            problem = f'the RoI head of {self.teacher.key} has no mask_head'
            raise ValueError(f"{self.key}.output='mask_preds', but {problem}.")
        if branch := next((name for name in ('semantic_head', 'glbctx_head') if model['roi_head'].get(name)), None):
            problem = f'the RoI head of {self.teacher.key} has a {branch}'
            raise ValueError(f'{self.key}: {problem}, which RoIs alone cannot feed: take a standard or cascade one.')
        head = self._head_config(model['roi_head'])
        loss = head.get('loss_cls') or {}
        kind = type_name(loss)
        apart = kind == 'SeesawLoss' or loss.get('use_sigmoid', 'Focal' in kind)  # Seesaw's last two tell objectness
        if self.output == 'cls_score' and self.form in ('softmax', 'dist') and apart:
            problem = f'form={self.form!r}, but the scores of {self.teacher.key} do not compete ({dict(loss)})'
            raise ValueError(f'{self.key}: {problem}. Compare bbox_pred or maps of the neck.')
        if self.output == 'bbox_pred' and 'num_classes' in head:
            width, classes = student[self.tap][0][-1], head['num_classes']
            specific = 4 * (class_lengths(self.teacher, self.state.classes)[0] if self.maps_classes else classes)
            expected = 4 if head.get('reg_class_agnostic') else specific
            if width != expected and width in (4, specific):
                raise ValueError(self._shape_message(width, expected))

    def check_networks(self, key: str, student: ModelConfig, teacher: ModelConfig) -> None:
        """Refuse boxes that the two heads code otherwise."""
        t_head, s_head = (config.model.get('roi_head') or {} for config in (teacher, student))
        if self.output != 'bbox_pred' or not t_head.get('bbox_head') or not s_head.get('bbox_head'):
            return
        number = next((int(part) for part in self.tap.split('.') if part.isdigit()), 0)
        pairs = (s_head['bbox_head'], number), (t_head['bbox_head'], self.stage)
        heads = [head[stage : stage + 1] if isinstance(head, Sequence) else [head] for head, stage in pairs]
        coders = [head.get('bbox_coder') for head in [*heads[0], *heads[1]]]
        if len(coders) == 2 and all(coders) and coders[0] != coders[1]:
            problem = f'the student has bbox_coder={dict(coders[0])}, the teacher {dict(coders[1])}'
            raise ValueError(f'{key}: {problem}: their boxes mean something else. Give both heads one coder.')

    def forward(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        """Return ``loss_roi``, summed over the calls of the tapped head."""
        # an extractor that the mask head shares is called again, after the box head
        calls = zip(student[self.tap], student[str(self.rois)], strict=False)
        terms = [self._term(output, rois, teacher[self.features]) for output, rois in calls]
        return {'loss_roi': torch.stack(terms).sum()}

    @torch.no_grad()
    def answer(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Return the output of the teacher's head for RoIs (R, 5): index of the image, x1, y1, x2, y2."""
        teacher = self.teacher
        assert teacher is not None, 'set by the model'

        def run() -> dict[str, Tensor]:
            head = teacher.module('roi_head')
            if self.output == MASKS:
                return {MASKS: run_mask_head(head, tuple(features), rois, self.stage)}
            outputs = run_roi_head(head, tuple(features), rois, self.stage)
            return {name: outputs[name] for name in OUTPUTS}  # not the features of the RoIs, which are large

        # the RoIs and maps of a step are the same objects for all terms
        part = 'mask_head' if self.output == MASKS else 'roi_head'
        return teacher.cached((part, self.stage, id(rois), *map(id, features)), run)[self.output]

    def _term(self, student: Tensor, rois: Tensor, features: Sequence[Tensor]) -> Tensor:
        if len(student) != len(rois):
            problem = f'student_tap={self.tap!r} has {len(student)} rows, but rois={self.rois!r} {len(rois)}'
            raise ValueError(f'{self.key}: {problem}; tap the RoIs of the same head.')
        count = mean_count(len(rois), student)  # also without RoIs: the processes wait for each other
        if not len(rois):
            return 0.0 * student.float().sum()
        teacher = self.answer(features, rois)
        if self.pairs is not None:
            student, teacher = self._paired(self.pairs, student, teacher)
        if student.shape != teacher.shape:
            if self.output == MASKS:
                sizes = ' and '.join(str(tuple(x.shape[1:])) for x in (student, teacher))
                raise ValueError(f'{self.key}: the masks are {sizes}: both heads need the same classes and size.')
            raise ValueError(self._shape_message(student.shape[-1], teacher.shape[-1]))
        if self.standardise:
            student, teacher = standardised(student), standardised(teacher)
        return len(rois) / count * self.compare(student, teacher)

    def check_classes(self, pairs: ClassPairs) -> None:
        """Refuse a box for each class where classes are merged."""
        head = self._head_config(self.teacher.config.model['roi_head']) if self.teacher else {}
        merged = any(len(group.student) > 1 or len(group.teacher) > 1 for group in pairs.groups)
        if self.output == 'bbox_pred' and not head.get('reg_class_agnostic') and merged:
            problem = f'the heads regress a box for each class, and merged classes ({pairs.key}) have several boxes'
            raise ValueError(f'{self.key}: {problem}. Compare cls_score, or use heads with reg_class_agnostic=True.')

    def _paired(self, pairs: ClassPairs, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs of shared classes; one box for all classes stays as it is."""
        s_classes, t_classes = len(pairs.student), len(pairs.teacher)
        if self.output == MASKS:
            by_class = (student.shape[1], teacher.shape[1]) == (s_classes, t_classes)
            return pairs.sigmoid(student, teacher) if by_class else (student, teacher)
        if self.output == 'cls_score':
            if (student.shape[1] - s_classes, teacher.shape[1] - t_classes) == (1, 1):
                pairs = pairs.with_background()
            return (pairs.sigmoid if self.form == 'sigmoid' else pairs.softmax)(student, teacher)
        if (student.shape[1], teacher.shape[1]) != (4 * s_classes, 4 * t_classes):
            return student, teacher
        blocks = pairs.sigmoid(student.unflatten(1, (s_classes, 4)), teacher.unflatten(1, (t_classes, 4)))  # (R, G, 4)
        return blocks[0].flatten(1), blocks[1].flatten(1)  # (R, 4*G)

    def _head_config(self, roi_head: Mapping[str, Any]) -> Mapping[str, Any]:
        stages, head = roi_head.get('num_stages', 1), roi_head['bbox_head']
        if not 0 <= self.stage < stages:
            problem = f'the RoI head of the teacher has {stages} stage(s), counted from 0'
            raise ValueError(f'{self.key}.stage={self.stage}, but {problem}.')
        return head[self.stage] if isinstance(head, Sequence) else head

    def _shape_message(self, student: int, teacher: int) -> str:
        message = (
            f"{self.key}: student_tap={self.tap!r} gives {student} values per RoI and the teacher's "
            f'{self.output} {teacher}. '
        )
        if self.output == 'bbox_pred' and 4 in (student, teacher):
            return (
                f'{message}One head regresses one box per class, the other one box for all classes: set '
                f'model.student.roi_head.bbox_head.reg_class_agnostic={teacher == 4}.'
            )
        return f'{message}Tap the same kind of output (fc_reg for bbox_pred, fc_cls for cls_score) with equal classes.'
