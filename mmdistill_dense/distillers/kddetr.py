"""KD-DETR: the answers of two decoders to the same queries."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mmdistill_dense.distillers.base import Distiller, Losses, Recorded, Shapes
from mmdistill_dense.losses import loss_dtype, query_terms, to_device
from mmdistill_dense.networks.recording import Replay
from mmdistill_dense.networks.taps import DECODER
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.distributed import mean_over_ranks
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Positive, Reduction, Whole, check_weights

SCORES, BOXES = 'bbox_head[0]', 'bbox_head[1]'


@DISTILLERS.register_module()
class KDDETR(Distiller):
    """Match classes and boxes of all the student's decoder layers with the teacher's last, for the same queries.

    Both decoders get the teacher's queries and ``general`` random ones, each on its own picture. With the teacher's
    weight ``w = max_k sigmoid(Z_t)`` of each query, for each of the two sets::

        loss_class = class_weight * sum_{layers, queries} w T^2 mean_k KL(softmax Z_t / T || softmax Z_s / T)
        loss_box   = box_weight   * sum_{layers, queries} w mean_4 |b_s - b_t| / sum w
        loss_giou  = giou_weight  * sum_{layers, queries} w (1 - GIoU) / sum w

    Source: Wang et al., "KD-DETR", CVPR 2024, https://arxiv.org/abs/2211.08071, as released for DAB-DETR. Ours: the
    random queries of the other detectors, ``reduction='mean'``, and ``sum w`` over all processes. Options:
    [docs/methods/kddetr.md](../methods/kddetr.md).
    """

    needs_labels = True  # the call of the student's decoder, which its own loss makes
    needs_scores: ClassVar[bool] = True
    teacher_gives: ClassVar[str] = 'the answers of its decoder to the same queries'
    fixed: ClassVar[tuple[str, ...]] = ('student_tap', 'teacher_tap')
    no_auto: ClassVar[str] = 'it compares answers to queries, not maps: leave student_tap out'

    specific: bool = True
    general: Whole = 300
    temperature: Positive = 10.0
    class_weight: float = 1.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    layers: Literal['all', 'last'] = 'all'
    reduction: Reduction = 'sum'

    def __init__(self, **options: Any) -> None:
        super().__init__([SCORES, BOXES], **options)
        weights = dict(class_weight=self.class_weight, box_weight=self.box_weight, giou_weight=self.giou_weight)
        check_weights(**weights)
        if not self.specific and not self.general:
            raise ValueError('specific=False and general=0 leave no queries to compare.')
        self.extra_student_taps = self.extra_teacher_taps = [DECODER]
        self.teacher_parts = None  # the queries are weights that no module of the network returns
        self.weights = {f'loss_{name.partition("_")[0]}': weight for name, weight in weights.items()}

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Check that the student's decoder takes the teacher's queries, and that the classes are the same."""
        s_sizes, t_sizes = ([tuple(shape[2:]) for shape in shapes[DECODER]] for shapes in (student, teacher))
        if s_sizes != t_sizes:
            raise ValueError(
                f'{self.key}: the queries of the student have {s_sizes} channels and those of the teacher {t_sizes}: '
                'both need the same kind of detector, embed_dims, and two-stage or refined boxes in both or neither.'
            )
        s_classes, t_classes = (side[SCORES][0][-1] for side in (student, teacher))
        if self.maps_classes or s_classes != t_classes:
            problem = f'the heads score {s_classes} and {t_classes} classes of their own'
            raise ValueError(f'{self.key}: {problem}: it compares heads of the same classes.')
        if self.teacher is None:
            return
        if self.teacher.option.acceleration.changes_pass:
            problem = f'{self.key} runs the decoder of the teacher once more'
            raise ValueError(f'{problem}, which {self.teacher.key}.accelerate does not prepare: leave it out.')
        classes = self.teacher.config.model['bbox_head'].get('num_classes')
        if classes not in (None, t_classes):
            problem = f'the head scores {t_classes} values for {classes} classes, one for "no object"'
            remedy = 'it needs heads of binary scores, as Conditional, DAB and Deformable DETR and DINO have'
            raise ValueError(f'{self.key}: {problem}: {remedy}.')

    def forward(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        """Return ``loss_class``, ``loss_box`` and ``loss_giou``; a term of weight 0 is left out."""
        s_replay, t_replay = student[DECODER], teacher[DECODER]
        assert isinstance(s_replay, Replay) and isinstance(t_replay, Replay), 'the tap of the decoder records them'
        if s_replay.names != t_replay.names:
            student_s, teacher_s = (', '.join(side.names) for side in (s_replay, t_replay))
            problem = f'the decoder of the student gets {student_s} and that of the teacher {teacher_s}'
            raise ValueError(f'{self.key}: {problem}: both need the same kind of detector.')
        terms = []
        if self.specific:
            terms.append(self.terms(s_replay.answer(t_replay), (teacher[SCORES][0], teacher[BOXES][0])))
        if self.general:
            queries = self.random_queries(t_replay)
            with torch.no_grad():
                answer = t_replay.answer(queries)
            terms.append(self.terms(s_replay.answer(queries), answer))
        return self.named(torch.stack(terms).sum(0))

    def named(self, terms: Tensor) -> Losses:
        """Return three terms with their weights; one of weight 0 is left out."""
        return {name: weight * term for (name, weight), term in zip(self.weights.items(), terms, strict=True) if weight}

    def terms(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the unweighted terms (3,) of scores and boxes of all layers, see :func:`losses.query_terms`."""
        start = 0 if self.layers == 'all' else -1
        (s_scores, s_boxes), (scores, boxes) = [x[start:] for x in student], [x[-1] for x in teacher]
        total = mean_over_ranks(scores.detach().to(loss_dtype(scores)).amax(-1).sigmoid().sum())
        mean, temperature = self.reduction == 'mean', self.temperature
        return query_terms(s_scores, s_boxes, scores, boxes, temperature=temperature, mean=mean, total=total)

    def random_queries(self, queries: Replay) -> list[Tensor]:
        """Return ``general`` random queries, the same for all pictures, shaped as those of the teacher.

        Places (2 or 4 numbers) are drawn from a normal distribution, before the sigmoid; contents and other positions
        from the teacher's own, each for itself.
        """
        draw, samples = self.generator(), []
        for name, query in zip(queries.names, queries, strict=True):
            if query.shape[-1] <= 4:
                points = to_device(torch.randn(self.general, query.shape[-1], generator=draw), query).to(query.dtype)
                points = points.sigmoid() if name == 'reference_points' else points
                samples.append(points.expand(len(query), -1, -1))
            else:
                index = torch.randint(query.shape[1], (self.general,), generator=draw)
                samples.append(query[:, to_device(index, query)])
        return samples
