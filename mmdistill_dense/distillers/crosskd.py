"""CrossKD: student features fed into the teacher's remaining head layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Distiller, Losses, Recorded, Shapes
from mmdistill_dense.distillers.ground_truth import anchor_targets, annotated, assigned_by_student, check_independent
from mmdistill_dense.registry import DISTILLERS, class_of
from mmdistill_dense.utils.distributed import MIN_COUNT, gather_rows_with_gradient, mean_over_ranks
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import NotNegative, Positive, Whole, check_weights

if TYPE_CHECKING:
    from mmdistill_dense.config.resolve import ModelConfig

Maps = Sequence[Tensor]  # of each level
TOWERS = 'cls_convs', 'reg_convs'


class Form(NamedTuple):
    """How a head of mmdet predicts: its last layers, and the comparison of boxes with its published weight."""

    scores: str
    boxes: str
    compare: Literal['edges', 'giou', 'iou']
    box_weight: float
    centre: str = ''


FORMS = {
    'GFLHead': Form('gfl_cls', 'gfl_reg', 'edges', 4.0),
    'RetinaHead': Form('retina_cls', 'retina_reg', 'giou', 1.0),
    'ATSSHead': Form('atss_cls', 'atss_reg', 'giou', 1.0, 'atss_centerness'),
    'FCOSHead': Form('conv_cls', 'conv_reg', 'iou', 0.75),
}
# Both heads read the same targets and decode with the same anchors.
_EQUAL = ('num_classes', 'anchor_generator', 'bbox_coder', 'reg_max', 'strides', 'regress_ranges', 'center_sampling')


class Targets(NamedTuple):
    """What weighs the rows of each level: B pictures, A anchors for each of the H W cells, in the order h, w, a."""

    priors: Maps  # anchors (H W A, 4), or points (H W, 2)
    weights: Maps | None = None  # (B, H W A), 0 for ignored anchors; None: all count 1
    positives: Maps | None = None  # (B, H W A), 1 where the centreness counts; None: as the teacher's scores
    total: Tensor | None = None  # to divide by; None: the sum of the teacher's scores


@DISTILLERS.register_module()
class CrossKD(Distiller):
    """Match what the teacher's head makes of the student's maps to what it makes of the teacher's.

    ``s`` is the student's map behind ``reuse_from`` convolutions of a tower of its head, ``t`` the teacher's. The rest
    of the teacher's frozen head predicts ``z, b`` from ``relu((s - mean_s) / (std_s + eps) std_t + mean_t)``, by
    channel, and ``z_t, b_t`` from ``t``. Over rows r (pictures, cells, anchors)::

        loss_cls    = class_weight  * sum_r m_r sum_k BCE(sigmoid z, y) |sigmoid z - y|^beta / positives
        loss_box    = box_weight    * sum_r w_r distance(b, b_t) / positives
        loss_centre = centre_weight * sum over positives of BCE(c, sigmoid c_t) / positives          (ATSS)

    ``y = sigmoid z_t``; ``m_r`` is 0 for ignored anchors, else 1; ``w_r = m_r max_k y_rk``. The distance of boxes is
    ``1 - GIoU``; of FCOS ``-log IoU``; of GFL the KL of the edges, mean over the 4, divided by ``sum_r w_r``.

    Source: Wang et al., "CrossKD: Cross-Head Knowledge Distillation for Object Detection", CVPR 2024,
    https://arxiv.org/abs/2306.11369, as released. Ours: moments and counts are those of all processes. Options:
    [docs/methods/crosskd.md](../methods/crosskd.md).
    """

    needs_labels = True
    fixed: ClassVar[tuple[str, ...]] = ('student_tap', 'teacher_tap')
    needs_scores: ClassVar[bool] = True
    teacher_gives: ClassVar[str] = "the teacher's head on both maps"

    class_weight: float = 1.0
    box_weight: float | None = None
    centre_weight: float = 1.0
    beta: NotNegative = 1.0
    normalise: Literal['positives', 'scores'] = 'positives'
    eps: Positive = 1e-6

    def __init__(self, head: str = 'bbox_head', *, reuse_from: Whole = 3, **options: Any) -> None:
        self.held = [f'{head}.{tower}.{reuse_from - 1}' for tower in TOWERS] if reuse_from else ['neck']
        super().__init__([*self.held, head], **options)  # of the student, the head's output is not read
        boxes = 1.0 if self.box_weight is None else self.box_weight
        check_weights(class_weight=self.class_weight, box_weight=boxes, centre_weight=self.centre_weight)
        self.head, self.reuse_from, self.teacher_parts = head, reuse_from, (head.split('.')[0],)
        self.needs_labels = self.normalise == 'positives'

    def check_networks(self, key: str, student: ModelConfig, teacher: ModelConfig) -> None:
        """Refuse heads whose rest cannot be run, or that differ in classes, anchors, coder or targets."""
        forms, specs = [], []
        for side, config in (('student', student), ('teacher', teacher)):
            head = config.model.get(self.head) or {}
            forms.append(form_of(class_of(head, config.scope)))
            if forms[-1] is None:
                head_type = getattr(head.get('type'), '__name__', head.get('type'))
                raise ValueError(
                    f'{key}: CrossKD runs the last layers of a {", a ".join(FORMS)}, but {self.head} of the {side} '
                    f"({config.model.get('type')}) is {head_type}. Use RoIHeadKD for RoI heads, else e.g. type='PKD'."
                )
            check_independent(key, side, head)
            if (depth := head.get('stacked_convs', 4)) < self.reuse_from:
                raise ValueError(
                    f'{key}.reuse_from={self.reuse_from}, but the towers of the {side} have {depth} convolutions '
                    f'({self.head}.stacked_convs): set reuse_from to at most {depth}, or give both equal towers.'
                )
            options = {f'{self.head}.{name}': head.get(name) or None for name in _EQUAL}
            assigner = (config.model.get('train_cfg') or {}).get('assigner')
            specs.append({f'{self.head}.type': forms[-1], **options, 'train_cfg.assigner': assigner})
        names = [name for name, value in specs[0].items() if value != specs[1][name]]
        if names:
            problem = f'student and teacher differ in {", ".join(names)}'
            raise ValueError(f'{key}: {problem}. CrossKD reads one set of anchors and targets: give both the same.')
        if self.needs_labels:
            self.noted_methods = assigned_by_student(self.head, student, teacher)

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Check that the held maps have the same levels and channels."""
        for tap in self.held:
            s_shapes, t_shapes = ([tuple(shape[1:]) for shape in shapes[tap]] for shapes in (student, teacher))
            if s_shapes != t_shapes:
                problem = f'{tap} has levels of {s_shapes} (C, H, W) in the student and {t_shapes} in the teacher'
                raise ValueError(f"{self.key}: {problem}: give model.student the teacher's feat_channels and strides.")

    def forward(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        """Return those of ``loss_cls``, ``loss_box`` and ``loss_centre`` that have a weight."""
        assert self.teacher is not None, 'set by the model'
        head: Any = self.teacher.module(self.head)
        taps = self.held * (1 if self.reuse_from else 2)
        cross_preds = self.predict(head, [self.aligned(student[tap], teacher[tap]) for tap in taps])
        levels, flat = len(cross_preds[0]), teacher[self.head]
        outputs = [flat[begin : begin + levels] for begin in range(0, len(cross_preds) * levels, levels)]
        if getattr(head, 'norm_on_bbox', False):  # its pass is that of training, where edges are in strides
            outputs[1] = [boxes * stride for boxes, stride in zip(outputs[1], head.strides, strict=True)]
        calls = [call for path in self.noted_methods for call in student[path]]
        terms = self.compare(head, cross_preds, outputs, self.targets(head, outputs[0], data_samples, calls))
        return {name: self.weights_of(head)[name] * values.sum() for name, values in terms.items()}

    def weights_of(self, head: Any) -> dict[str, float]:
        """Return the weight of each loss; that of boxes is by default the published one of the head."""
        box_weight = form_of(type(head)).box_weight if self.box_weight is None else self.box_weight
        return dict(loss_cls=self.class_weight, loss_box=box_weight, loss_centre=self.centre_weight)

    def predict(self, head: Any, towers: Sequence[Maps]) -> list[list[Tensor]]:
        """Return scores, boxes (edges of FCOS in pixels) and ATSS's centreness by level, from maps of both towers."""
        form, maps = form_of(type(head)), [list(tower) for tower in towers]
        for number, name in enumerate(TOWERS):
            for conv in list(getattr(head, name))[self.reuse_from :]:
                maps[number] = [conv(x) for x in maps[number]]
        preds = [[getattr(head, form.scores)(x) for x in maps[0]], [getattr(head, form.boxes)(x) for x in maps[1]]]
        if hasattr(head, 'scales'):
            preds[1] = [scale(x) for scale, x in zip(head.scales, preds[1], strict=True)]
        if form.compare == 'iou':
            pairs = [(x.to(losses.loss_dtype(x)), stride) for x, stride in zip(preds[1], head.strides, strict=True)]
            preds[1] = [x.clamp(min=0) * stride if head.norm_on_bbox else x.exp() for x, stride in pairs]
        return [*preds, [getattr(head, form.centre)(x) for x in maps[1]]] if form.centre else preds

    def aligned(self, student: Maps, teacher: Maps) -> list[Tensor]:
        """Return the student's maps at the teacher's scale, by the moments of all processes."""
        stats = [losses.channel_moments(x) for x in [*student, *(x.detach() for x in teacher)]]
        rows = gather_rows_with_gradient(torch.cat([x.flatten() for x in stats])[None])  # (R, 2*levels*3*C)
        moments = [x.unflatten(1, (3, -1)) for x in rows.split([x.numel() for x in stats], 1)]  # (R, 3, C)
        pairs = zip(student, moments[: len(student)], moments[len(student) :], strict=True)
        maps = [losses.aligned_scale(*pair, eps=self.eps) for pair in pairs]
        return [x.relu_() for x in maps] if self.reuse_from else maps

    @torch.no_grad()
    def targets(self, head: Any, scores: Maps, data_samples: Samples, calls: Any = ()) -> Targets:
        """Return what weighs the rows of maps of class scores; ``normalise='scores'`` reads no boxes.

        ``calls`` is what the student's own loss assigned, see :func:`anchor_targets`.
        """
        sizes, like = [x.shape[2:] for x in scores], scores[0].new_zeros((), dtype=losses.loss_dtype(scores[0]))
        by_anchor = form_of(type(head)).compare != 'iou'
        if by_anchor and self.normalise == 'positives':
            anchor_target = anchor_targets(head, sizes, data_samples, self.name, like.device, calls)
            positives = [weights[..., 0] > 0 for weights in anchor_target.box_weights]
            total = losses.to_device(torch.tensor(float(anchor_target.positives)), like).to(like.dtype)
            return Targets(anchor_target.anchors, anchor_target.label_weights, positives, mean_over_ranks(total))
        if calls and calls[-1][0][0][0].dtype == like.dtype:  # autocast has coarser points
            (priors, *_), assigned = calls[-1]
        else:
            priors = head.prior_generator.grid_priors(sizes, dtype=like.dtype, device=like.device)
            if self.normalise == 'scores':
                return Targets(priors)
            assigned = head.get_targets(priors, annotated(data_samples, self.name)[1])
        labels, edges = (torch.cat(levels) for levels in assigned)  # (n,), (n, 4)
        positive = labels < head.num_classes
        centreness = head.centerness_target(torch.where(positive[:, None], edges, 1)) * positive
        return Targets(priors, total=mean_over_ranks(centreness.sum()).clamp_min(1))

    def compare(
        self, head: Any, student: Sequence[Maps], teacher: Sequence[Maps], targets: Targets
    ) -> dict[str, Tensor]:
        """Return the losses of predictions (scores, boxes and centreness by level), without weight, of each level."""
        form, weights = form_of(type(head)), self.weights_of(head)
        terms: dict[str, list[Tensor]] = {name: [] for name in weights}
        richness, boxes, classes = [], [], head.cls_out_channels
        for level, predicted in enumerate(zip(*student, *teacher, strict=True)):
            maps = [x.to(losses.loss_dtype(x)) for x in predicted]
            s_maps, t_maps = maps[: len(student)], [x.detach() for x in maps[len(student) :]]
            z, z_t = (x.reshape(-1, classes, x.shape[2:].numel()) for x in (s_maps[0], t_maps[0]))  # (B*A, K, H*W)
            mask = _by_anchor(targets.weights, level, z[:, 0])
            scores = mask * losses.feature_richness(z_t)
            richness.append(scores)
            boxes.append((s_maps[1], t_maps[1]))
            if weights['loss_cls']:
                terms['loss_cls'].append(losses.focal_entropy(z, z_t, mask, beta=self.beta))
            if form.centre and weights['loss_centre']:
                weight = scores if targets.positives is None else _by_anchor(targets.positives, level, z[:, 0])
                c, c_t = (x.reshape(weight.shape) for x in (s_maps[2], t_maps[2]))  # (B*A, H*W)
                terms['loss_centre'].append(losses.focal_entropy(c[:, None], c_t[:, None], weight, beta=0.0))
        if weights['loss_box']:
            terms['loss_box'] = _distances(head, form.compare, boxes, targets.priors, richness)
        total, divisors = targets.total, {}
        if total is None or form.compare == 'edges':  # only then do the processes wait for this sum
            mass = mean_over_ranks(torch.stack([scores.sum() for scores in richness]).sum())
            total = mass.clamp_min(1) if total is None else total
            divisors = dict(loss_box=mass.clamp_min(MIN_COUNT)) if form.compare == 'edges' else {}
        return {name: torch.stack(sums) / divisors.get(name, total) for name, sums in terms.items() if sums}


def form_of(cls: Any) -> Any:
    """Return the :class:`Form` of a class of heads, ``None`` for one whose layers or targets are others."""
    for base in getattr(cls, '__mro__', ()):
        if base.__name__ in FORMS:
            matches = (getattr(cls, method) is getattr(base, method) for method in ('forward_single', 'get_targets'))
            return FORMS[base.__name__] if all(matches) else None
    return None


def _by_anchor(weights: Maps | None, level: int, like: Tensor) -> Tensor:
    """Return the weights of a level, which has them by cell and anchor, as (B A, H W), the shape of ``like``."""
    if weights is None:
        return torch.ones_like(like)
    weight = weights[level].to(like.dtype)
    return weight.unflatten(1, (like.shape[1], -1)).mT.reshape(like.shape)  # (B, H*W, A) to (B*A, H*W)


def _distances(
    head: Any, kind: str, boxes: Sequence[tuple[Tensor, Tensor]], priors: Maps, weights: Maps
) -> list[Tensor]:
    """Return for each level the weighted sum of the distances of boxes, pairs of (B, A n, H, W), by (B A, H W)."""
    if kind == 'edges':
        sums = []
        for pair, weight in zip(boxes, weights, strict=True):
            s, t = (x.reshape(4 * len(weight), -1, weight.shape[1]) for x in pair)  # (4*B*A, n, H*W)
            rows = weight.repeat_interleave(4, 0)
            sums.append(losses.softmax_divergence(s, t, weight=rows) * (rows.numel() / 4))
        return sums
    from mmdet.structures.bbox import bbox_overlaps

    # Of all levels at once: coder and overlaps send numbers to the device, which makes the CPU wait.
    pictures = len(boxes[0][0])
    flat = torch.cat([x.to(boxes[0][0].dtype).repeat(pictures, 1) for x in priors])  # (n, 4)
    sides = zip(*[[x.permute(0, 2, 3, 1).reshape(-1, 4) for x in pair] for pair in boxes], strict=True)  # (B*H*W*A, 4)
    s, t = (head.bbox_coder.decode(flat, torch.cat(side)) for side in sides)  # (n, 4)
    if kind == 'giou':
        distances = 1 - bbox_overlaps(s, t, mode='giou', is_aligned=True, eps=1e-7)
    else:
        distances = -bbox_overlaps(s, t, is_aligned=True).clamp(min=1e-6).log()
    rows = torch.cat([weight.unflatten(0, (pictures, -1)).mT.flatten() for weight in weights])  # (n,)
    return [part.sum() for part in (rows * distances).split([weight.numel() for weight in weights])]
