"""LD: localisation distillation between heads that predict distributions of box edges."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Distiller, Losses, Recorded, Shapes
from mmdistill_dense.distillers.ground_truth import anchor_targets, assigned_by_student, class_lengths
from mmdistill_dense.networks.class_pairs import ClassPairs, check_groups
from mmdistill_dense.registry import DISTILLERS, class_of
from mmdistill_dense.utils.distributed import MIN_COUNT, mean_over_ranks
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Positive, Reduction, Share, check_classes, check_weights

if TYPE_CHECKING:
    from mmdistill_dense.config.resolve import ModelConfig


@DISTILLERS.register_module()
class LD(Distiller):
    """Match the distributions of the four box edges at the positive anchors and around them.

    GFL's head predicts ``n = reg_max + 1`` logits for each edge of the box at each place. With ``KL_T(r) = T^2 mean_k
    p_t (log p_t - log p_s)``, ``p = softmax(z / T)``, over the rows r (edges, or class scores)::

        loss_ld  = main_weight * sum_{positives a} q_a / 4 sum_{4 edges} KL_T                 main region
        loss_vlr = valuable_weight * sum_{valuable a} IoU_a / 16 sum_{4 edges} KL_T           valuable region
        loss_kd  = class_weight * sum_levels mean_{positives a of the level} KL_T'(classes)   class scores

    The teacher's assigner (ATSS) finds the positives; ``q_a`` is the student's highest class score there. Valuable
    anchors lie around them, see :func:`losses.valuable_region`.

    Source: Zheng et al., "Localization Distillation for Dense Object Detection", CVPR 2022,
    https://arxiv.org/abs/2102.12252, and TPAMI 2023, as released. Ours: ``reduction='mean'``, and the mean of
    ``loss_kd`` over the positives of all processes. Options: [docs/methods/ld.md](../methods/ld.md).
    """

    needs_labels = True
    fixed: ClassVar[tuple[str, ...]] = ('student_tap', 'teacher_tap')

    temperature: Positive = 10.0
    class_temperature: Positive = 2.0
    main_weight: float = 0.25
    valuable_weight: float = 0.25
    class_weight: float = 10.0
    ratio: Share = 0.25
    reduction: Reduction = 'sum'

    def __init__(self, head: str = 'bbox_head', **options: Any) -> None:
        self.scores, self.edges = f'{head}[0]', f'{head}[1]'
        super().__init__([self.scores, self.edges], **options)
        weights = ('main_weight', 'valuable_weight', 'class_weight')
        check_weights(**{name: getattr(self, name) for name in weights})
        self.teacher_parts = (head.split('.')[0],)
        self.head = head

    def check_networks(self, key: str, student: ModelConfig, teacher: ModelConfig) -> None:
        self.noted_methods = assigned_by_student(self.head, student, teacher)

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Check that the teacher's head predicts edge distributions, and the student's head the same."""
        if self.teacher is not None:
            self._check_teacher(self.teacher.config.model, self.teacher.config.scope)
        units = {self.scores: 'classes', self.edges: 'edges x (reg_max + 1)'}
        for tap, values in units.items():
            s_shapes, t_shapes = ([tuple(shape[1:]) for shape in shapes[tap]] for shapes in (student, teacher))
            if tap == self.scores and self.maps_classes:
                counts = class_lengths(self.teacher, self.state.classes)
                sides = zip((s_shapes, t_shapes), counts, strict=True)
                if any(shape[0] != count for shapes, count in sides for shape in shapes):
                    raise ValueError(f'{self.key}: {tap} has other channels than the classes of its head.')
                s_shapes, t_shapes = ([shape[1:] for shape in shapes] for shapes in (s_shapes, t_shapes))
            if s_shapes != t_shapes:
                problem = f'the student has levels of {s_shapes} ({values}, H, W) and the teacher of {t_shapes}'
                raise ValueError(f'{self.key}: {problem}: set model.student.{self.head} to the options of the teacher.')
        if self.class_weight:
            check_classes(self.key, self.scores, student[self.scores][0][1], f'{self.key}.class_weight=0')

    def check_classes(self, pairs: ClassPairs) -> None:
        if self.class_weight:
            check_groups(self.key, pairs, True)

    def forward(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        """Return those of ``loss_ld``, ``loss_vlr`` and ``loss_kd`` that have a weight."""
        scores, edges = student[self.scores], student[self.edges]
        calls = [call for path in self.noted_methods for call in student[path]]
        is_main, valuable = self.regions([x.shape[2:] for x in scores], data_samples, scores[0].device, calls)
        main = _by_level(is_main).nonzero()[:, 0]
        positives = _rows(scores, main)
        weight = positives.detach().float().sigmoid().amax(1)
        scale = 1.0 if self.reduction == 'sum' else 1 / mean_over_ranks(weight.sum()).clamp_min(1)
        terms = {}
        if self.main_weight:
            terms['loss_ld'] = self.main_weight * scale / 4 * self._edges(edges, teacher[self.edges], main, weight)
        if self.valuable_weight:
            iou = _by_level(valuable)
            beside = (iou > 0).nonzero()[:, 0]
            term = self._edges(edges, teacher[self.edges], beside, iou[beside])
            terms['loss_vlr'] = self.valuable_weight * scale / 16 * term
        if self.class_weight:
            targets = _rows(teacher[self.scores], main)
            if self.pairs is not None:
                positives, targets = self.pairs.softmax(positives, targets)
            # 1 / (positives of a level), their number averaged over the processes
            numbers = torch.stack([level.sum() for level in is_main])
            shares = 1 / mean_over_ranks(numbers.float()).clamp_min(MIN_COUNT)
            shares = shares.repeat_interleave(numbers, output_size=len(positives))
            term = losses.weighted_divergence(positives, targets, shares, temperature=self.class_temperature)
            terms['loss_kd'] = self.class_weight * term
        return terms

    @torch.no_grad()
    def regions(
        self, sizes: Sequence[Sequence[int]], data_samples: Samples, device: torch.device, calls: Any = ()
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return for each level of A anchors which are positive, bool (B, A), and the weights of the valuable, (B, A).

        The maps have these sizes; see :func:`anchor_targets`.
        """
        from mmdet.models.task_modules.prior_generators import anchor_inside_flags

        assert self.teacher is not None, 'set by the model'
        head: Any = self.teacher.module(self.head)
        targets = anchor_targets(head, sizes, data_samples, self.name, device, calls)
        counts = [len(level) for level in targets.anchors]
        # by the weights of the boxes: labels may be above its own classes
        main = [weights[..., 0] > 0 for weights in targets.box_weights]
        flat, border = torch.cat(targets.anchors), head.train_cfg['allowed_border']  # (A, 4)
        pairs = zip(targets.valid, targets.metas, strict=True)
        inside = [anchor_inside_flags(flat, usable, meta['img_shape'][:2], border) for usable, meta in pairs]
        totals = torch.stack([torch.stack([part.sum() for part in flags.split(counts)]) for flags in inside]).tolist()
        indices = torch.stack(inside).nonzero()[:, 1].split([sum(numbers) for numbers in totals])
        valuable = flat.new_zeros(len(inside), len(flat))
        for row, index, numbers, annotation in zip(valuable, indices, totals, targets.instances, strict=True):
            boxes = getattr(annotation.bboxes, 'tensor', annotation.bboxes)
            row[index] = losses.valuable_region(flat[index], boxes, numbers, topk=head.assigner.topk, ratio=self.ratio)
        return main, valuable.split(counts, 1)

    def _edges(self, student: Sequence[Tensor], teacher: Sequence[Tensor], index: Tensor, w: Tensor) -> Tensor:
        s, t = (_rows(x, index).unflatten(1, (4, -1)) for x in (student, teacher))  # (R, 4, n)
        return losses.weighted_divergence(s, t, w[:, None].expand(-1, 4), temperature=self.temperature)

    def _check_teacher(self, model: Mapping[str, Any], scope: str | None) -> None:
        head = model.get(self.head) or {}
        kind, cls = head.get('type'), class_of(head, scope)
        bases = [] if cls is None else cls.__mro__
        if not any('reg_max' in inspect.signature(base.__init__).parameters for base in bases):
            name = getattr(kind, '__name__', kind)
            problem = f"LD compares box edges that heads with reg_max predict; the teacher's {self.head} is a {name}"
            raise ValueError(f"{self.key}: {problem}. Use a GFL pair, or another method, e.g. type='PKD'.")
        assigner = (model.get('train_cfg') or {}).get('assigner') or {}
        if 'topk' not in assigner or 'ATSS' not in str(assigner.get('type')):
            problem = 'LD needs the ATSSAssigner of a GFL config in model.teacher.train_cfg'
            raise ValueError(f'{self.key}: {problem}, got {dict(assigner) or None}.')


def _by_level(values: Sequence[Tensor]) -> Tensor:
    """Return (R,), level after level, from (B, A) of each: to look for places there waits for the device once."""
    return torch.cat([level.flatten() for level in values])  # (R,)


def _rows(maps: Sequence[Tensor], index: Tensor) -> Tensor:
    """Gather (R, C) from maps (B, C, H, W) at places in the order of :func:`_by_level`."""
    return torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in maps]).index_select(0, index)  # (R, C)
