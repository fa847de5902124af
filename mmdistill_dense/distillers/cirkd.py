"""CIRKD: cross-image relational distillation, with its queues of teacher vectors by class."""

import zlib
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.distillers.base import Shapes
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.ground_truth import classes_of_head, semantic_labels
from mmdistill_dense.distillers.pcd.modules import ExactBuffers
from mmdistill_dense.losses import normalize_pixels, similarity_divergence, to_device
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.distributed import (
    MIN_COUNT,
    gather_rows,
    gather_rows_with_gradient,
    mean_over_ranks,
    rows_before,
)
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Count, Positive, check_directions, check_positions, check_weights


class ClassQueue(ExactBuffers):
    """The last ``size`` unit rows of each class from all processes, in float32; equal on every process.

    Buffers: ``rows`` (classes, size, C), random directions until they are written, the same on every process and in
    every run; ``ptr`` (classes,), the next row to write.
    """

    rows: Tensor
    ptr: Tensor

    def __init__(self, classes: int, size: int, channels: int) -> None:
        super().__init__()
        rows = torch.zeros(classes, size, channels).normal_(generator=torch.Generator().manual_seed(0))
        self.register_buffer('rows', rows.div_(torch.linalg.vector_norm(rows, dim=2, keepdim=True)))
        self.register_buffer('ptr', torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, valid: Tensor) -> None:
        """Write the keys (B, classes, n, C) of all processes into the rings of their classes, in order of rank.

        The number of pictures B may differ between processes. Keys that are not ``valid``, (B, classes, n), are left
        out. If a class has more keys than ``size``, the last are written.
        """
        (classes, size, channels), number = self.rows.shape, valid.shape[2]
        keys = gather_rows(keys.to(self.rows).flatten(1)).view(-1, classes, number, channels)  # (B, K, n, C)
        valid = gather_rows(valid.to(self.rows).flatten(1)).view(-1, classes, number).bool()  # (B, K, n)
        keys, valid = keys.transpose(0, 1).flatten(1, 2), valid.transpose(0, 1).flatten(1)  # (K, B*n, C), (K, B*n)
        # As in NegativeQueue: what is left out is sorted first, and is replaced by the rows that are there.
        order = valid.byte().argsort(dim=1, stable=True)[:, -size:]
        added = valid.sum(1)
        slots = (self.ptr + added)[:, None] + torch.arange(-order.shape[1], 0, device=order.device)
        slots = (slots % size + size * torch.arange(classes, device=order.device)[:, None]).flatten()  # (K*m,)
        rows, is_new = self.rows.view(-1, channels), valid.gather(1, order).flatten()[:, None]  # (K*size, C)
        keys = keys.gather(1, order[..., None].expand(-1, -1, channels)).flatten(0, 1)  # (K*m, C)
        rows.index_copy_(0, slots, torch.where(is_new, keys, rows[slots]))
        self.ptr.add_(added).remainder_(size)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return ``count`` random rows of each class, (classes * count, C), at the same places in all queues."""
        slots = torch.randperm(self.rows.shape[1], generator=generator)[:count]
        return self.rows[:, to_device(slots, self.rows)].flatten(0, 1)  # (K*count, C)


def choose_pixels(labels: Tensor, classes: int, count: int, shuffled: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``count`` pixels of each class of each picture, the first in an order, and which of these there are.

    Labels and order, ``shuffled``, are (B, N); labels that are no class are ignored. The result is indices and bool,
    (B, classes, count); where a class has fewer pixels, the last indices mean nothing.
    """
    labels = labels.masked_fill(~is_class(labels, classes), classes)
    by_class = shuffled.gather(1, labels.gather(1, shuffled).argsort(dim=1, stable=True))
    counts = _counts(labels, classes)
    number = torch.arange(count, device=labels.device)
    position = (counts.cumsum(1) - counts)[..., None] + number
    chosen = by_class.gather(1, position.clamp_max(labels.shape[1] - 1).flatten(1))  # (B, K*count)
    return chosen.view_as(position), number < counts[..., None]


def region_means(rows: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the normalised mean row of each class in each picture, (B, classes, C), and which classes there are.

    The rows are (B, N, C), their labels (B, N); labels that are no class are ignored.
    """
    labels = labels.masked_fill(~is_class(labels, classes), classes)
    batch, size = len(labels), classes + 1
    bins = (labels + size * torch.arange(batch, device=labels.device)[:, None]).flatten()  # (B*N,)
    sums = rows.new_zeros(batch * size, rows.shape[2]).index_add_(0, bins, rows.flatten(0, 1))  # (B*(K + 1), C)
    return F.normalize(sums.view(batch, size, -1)[:, :-1], dim=2), _counts(labels, classes) > 0  # (B, K, C)


def _counts(labels: Tensor, classes: int) -> Tensor:
    """Return how many labels (B, N), at most ``classes``, each class has in each picture, (B, classes)."""
    return labels.new_zeros(len(labels), classes + 1).scatter_add_(1, labels, torch.ones_like(labels))[:, :-1]


def is_class(labels: Tensor, classes: int) -> Tensor:
    """Return which labels are a class; others are ignored."""
    return (labels >= 0) & (labels < classes)


@DISTILLERS.register_module()
class CIRKD(FeatureDistiller):
    """Cross-image relations: match the similarities of a pixel to pixels and regions of other pictures.

    ``s_p``, ``t_p`` are the unit vectors of pixel p in the maps of student and teacher, ``u_p`` that of the student's
    map after a projector; ``D_k(a || b)`` is ``KL(softmax_k(a_k / tau) || softmax_k(b_k / tau))``::

        loss_minibatch = minibatch_weight * mean over picture pairs (i, j) and pixels p of i of
                                            D_{q in j}(t_p . t_q || s_p . s_q)
        loss_pixel     = pixel_weight     * mean over labelled pixels p of  D_k(t_p . e_k || u_p . e_k)
        loss_region    = region_weight    * mean over labelled pixels p of  D_k(t_p . r_k || u_p . r_k)

    ``e_k`` are teacher pixels and ``r_k`` its mean vectors of a class in a picture, drawn in each step from queues by
    class.

    Source: Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR 2022,
    https://arxiv.org/abs/2204.06986, with the constants of the released code. Other than there: pixels enter the queue
    of their class, a queue is a ring, the minibatch part spans the processes. Options:
    [docs/methods/cirkd.md](../methods/cirkd.md).
    """

    # One map: queues for several would take gigabytes.
    needs: ClassVar[tuple[str, ...]] = ('map',)
    aligns_channels: ClassVar[bool] = False  # similarities have none
    needs_labels = True
    fixed: ClassVar[tuple[str, ...]] = ('align',)
    student_tap, resize = 'decode_head.conv_seg:input', 'teacher'
    minibatch_weight: float = 1.0
    pixel_weight: float = 0.1
    region_weight: float = 0.1
    temperature: Positive = 0.1
    pool: Count = 1
    gather: bool = True
    pixel_memory: Count = 20000
    region_memory: Count = 2000
    pixel_contrast: Count = 4096
    region_contrast: Count = 1024
    pixels_per_image: Count = 16

    def __init__(self, *taps: TapOption | None, num_classes: Count | None = None, **options: Any) -> None:
        super().__init__(*taps, **options)
        weights = {'pixel': self.pixel_weight, 'region': self.region_weight}
        check_weights(minibatch_weight=self.minibatch_weight, **{f'{name}_weight': w for name, w in weights.items()})
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.needs_labels = bool(self.weights)
        self.class_count = num_classes  # mmdet's NumClassCheckHook compares each `num_classes` with the data

    # Construction

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Make projectors and queues of each level."""
        if self.weights and self.class_count is None:
            other_classes = self.teacher is not None and self.teacher.option.other_classes
            self.class_count = self.state.classes if other_classes else classes_of_head(self.teacher, 'decode_head')
            if self.teacher is not None and other_classes and self.class_count is None:
                raise ValueError(
                    f'{self.key}: CIRKD keeps a queue for each class of the label maps, and the teacher may have '
                    f'others ({self.teacher.key}). Set num_classes to the number of the data set.'
                )
            if self.class_count is None:
                teacher_kind = 'no teacher' if self.teacher is None else f'{self.teacher.config.model.type} as teacher'
                raise ValueError(
                    f'{self.key}: CIRKD needs the number of classes of label maps, but {teacher_kind} has no '
                    "decode_head that says it. Set num_classes; for detectors choose another method, e.g. type='PKD'."
                )
        super().setup(student, teacher)

    def build_level(self, level: Level) -> nn.Module | None:
        """Return the queues by kind, and the projector from the student's channels to the teacher's."""
        if self.minibatch_weight:
            check_directions(self.key, level.name, level.student[0])
            pooled = (1, *(-(-side // self.pool) for side in self.grid(level)))
            check_positions(self.key, f'{level.name} after pool={self.pool}', level.student, level.teacher, pooled)
        if not self.weights:
            return None
        channels, out = level.student[0], level.teacher[0]
        check_directions(self.key, level.name, out)
        assert self.class_count is not None, 'set by setup'
        projector = nn.Sequential(
            nn.Conv2d(channels, out, 1, bias=False),
            nn.SyncBatchNorm(out),  # on the CPU, DistillDDP makes it a BatchNorm2d
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 1, bias=False),
        )
        queues = {kind: ClassQueue(self.class_count, getattr(self, f'{kind}_memory'), out) for kind in self.weights}
        return nn.ModuleDict({'projector': projector, 'queues': nn.ModuleDict(queues)})

    # One step

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> dict[str, Tensor]:
        """Return the loss terms of one level; first the teacher's vectors of this step enter the queues."""
        terms = {}
        if self.minibatch_weight:
            terms['loss_minibatch'] = self.minibatch_weight * self.minibatch(student, teacher)
        if self.weights:
            labels = semantic_labels(data_samples, student.shape[2:], self.key, self.state.ignored_labels)
            terms |= self.memory_terms(student, teacher, labels, level)
        return terms

    def minibatch(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the divergence of this process's pictures against those of all processes (with ``gather``)."""
        if self.pool > 1:
            student, teacher = (F.avg_pool2d(x, self.pool, ceil_mode=True) for x in (student, teacher))
        batch, pixels = len(student), student.shape[2] * student.shape[3]
        rows = [normalize_pixels(x)[0] for x in (student, teacher)]
        keys, pictures = [x.view(batch, pixels * x.shape[1]) for x in rows], rows[0].new_full((), batch)  # (B, N*C)
        if self.gather:
            keys, pictures = [gather_rows_with_gradient(x) for x in keys], mean_over_ranks(pictures)
        s_keys, t_keys = (x.view(len(x), pixels, row.shape[1]) for x, row in zip(keys, rows, strict=True))  # (B, N, C)
        weight = (1 / (pictures * pixels)).expand(batch * pixels)
        return similarity_divergence(rows[0], s_keys, rows[1], t_keys, temperature=self.temperature, row_weight=weight)

    def memory_terms(self, student: Tensor, teacher: Tensor, labels: Tensor, level: int) -> dict[str, Tensor]:
        """Add the teacher's vectors to the queues; return the weighted divergences against samples from them."""
        assert self.class_count is not None, 'set by setup'
        memory: Any = self.parts[level]
        rows, targets = (normalize_pixels(x)[0] for x in (memory.projector(student), teacher))
        if self.training:
            self._enqueue(targets.view(len(labels), -1, targets.shape[1]), labels.flatten(1), level)  # (B, N, C)
        is_counted = is_class(labels.flatten(), self.class_count).to(rows.dtype)  # (B*N,)
        weight = is_counted / mean_over_ranks(is_counted.sum()).clamp_min(MIN_COUNT)
        terms = {}
        for kind in self.weights:
            number = getattr(self, f'{kind}_contrast') // self.class_count + 1
            keys = memory.queues[kind].sample(number, self._stream(level, kind)).to(rows.dtype)[None]
            term = similarity_divergence(rows, keys, targets, keys, temperature=self.temperature, row_weight=weight)
            terms[f'loss_{kind}'] = self.weights[kind] * term
        return terms

    @torch.no_grad()
    def _enqueue(self, targets: Tensor, labels: Tensor, level: int) -> None:
        queues: Any = self.parts[level].queues
        classes = self.class_count
        assert classes is not None, 'set by setup'
        whole = targets.isfinite().all(2)  # of a broken map, whose step is skipped, nothing must stay
        targets, labels = torch.where(whole[..., None], targets, 0), labels.masked_fill(~whole, -1)
        if 'region' in self.weights:
            means, present = region_means(targets, labels, classes)
            queues.region.enqueue(means[:, :, None], present[..., None])
        if 'pixel' in self.weights:
            offset, pictures = rows_before(len(labels), targets.device), range(len(labels))
            streams = [self._stream(level, f'picture {offset + number}') for number in pictures]
            shuffled = torch.stack([torch.randperm(labels.shape[1], generator=stream) for stream in streams])
            chosen, valid = choose_pixels(labels, classes, self.pixels_per_image, to_device(shuffled, labels))
            rows = targets[torch.arange(len(labels), device=labels.device)[:, None, None], chosen]
            queues.pixel.enqueue(rows, valid)

    def _stream(self, level: int, purpose: str) -> torch.Generator:
        """Return a generator that is equal on all processes, unlike :meth:`generator`."""
        text = f'{self.state.seed}/{self.state.iteration}/{self.name}{self.state.part}/{level}/{purpose}'
        return torch.Generator().manual_seed(zlib.crc32(text.encode()))
