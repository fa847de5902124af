"""CIRKD: cross-image relational distillation, with its queues of teacher vectors by class."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.distillers.base import Shapes
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.ground_truth import classes_of_head, semantic_labels
from mmdistill_dense.distillers.pcd.parts import ExactBuffers
from mmdistill_dense.losses import normalize_pixels, similarity_divergence, to_device
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.distributed import (
    gather_numbers,
    gather_rows,
    gather_rows_with_gradient,
    mean_count,
    mean_over_ranks,
    rows_before,
)
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import (
    Resize,
    check_count,
    check_directions,
    check_positions,
    check_positive,
    check_weights,
)


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
    def enqueue(self, keys: Tensor, labels: Tensor) -> None:
        """Write the keys of all processes into the rings of their classes, in order of rank.

        The number of keys may differ between processes. If a class has more keys than ``size``, the last are written.
        """
        keys, labels = gather_rows(keys.to(self.rows)), gather_numbers(labels, self.ptr)
        classes, size = self.rows.shape[:2]
        labels, order = labels.sort(stable=True)
        number, counts = place_in_class(labels, classes)
        kept = number >= counts[labels] - size
        order, labels, number = to_device(torch.stack((order, labels, number))[:, kept], keys)
        place = (self.ptr[labels] + number) % size
        self.rows.view(-1, keys.shape[1]).index_copy_(0, labels * size + place, keys[order])
        self.ptr.add_(to_device(counts, keys)).remainder_(size)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return ``count`` random rows of each class, (classes * count, C), at the same places in all queues."""
        places = torch.randperm(self.rows.shape[1], generator=generator)[:count]
        return self.rows[:, to_device(places, self.rows)].flatten(0, 1)


class ClassMemory(nn.Module):
    """The queues of a level by kind, and the projector from the student's channels to the teacher's: a 1x1 convolution,
    synchronised batch norm, ReLU and a 1x1 convolution, without biases.
    """

    def __init__(self, channels: int, out: int, classes: int, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.projector = nn.Sequential(
            nn.Conv2d(channels, out, 1, bias=False),
            nn.SyncBatchNorm(out),  # on the CPU, DistillDDP makes it a BatchNorm2d
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 1, bias=False),
        )
        self.queues = nn.ModuleDict({kind: ClassQueue(classes, size, out) for kind, size in sizes.items()})

    def queue(self, kind: str) -> ClassQueue:
        """Return the queue of a kind."""
        queue = self.queues[kind]
        assert isinstance(queue, ClassQueue)
        return queue


def place_in_class(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Number the members of each class."""
    counts = torch.bincount(labels, minlength=classes)
    first = counts.cumsum(0) - counts
    return torch.arange(len(labels), device=labels.device) - first[labels], counts


def choose_pixels(labels: Tensor, classes: int, count: int, generator: torch.Generator) -> Tensor:
    """Return the flat indices of at most ``count`` random pixels of each class of one picture, sorted by class."""
    shuffled = torch.randperm(len(labels), generator=generator)
    shuffled = shuffled[is_class(labels[shuffled], classes)]
    chosen = shuffled[labels[shuffled].argsort(stable=True)]
    number, _ = place_in_class(labels[chosen], classes)
    return chosen[number < count]


def region_means(rows: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the normalised mean row of each class in one picture, (n, C), and these classes, (n,)."""
    kept = is_class(labels, classes).nonzero()[:, 0]
    labels = labels[kept]
    sums = rows.new_zeros(classes, rows.shape[1]).index_add_(0, to_device(labels, rows), rows[to_device(kept, rows)])
    present = labels.unique()
    return F.normalize(sums[to_device(present, rows)], dim=1), present


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

    def __init__(
        self,
        student_tap: TapOption = 'decode_head.conv_seg:input',
        teacher_tap: TapOption | None = None,
        *,
        minibatch_weight: float = 1.0,
        pixel_weight: float = 0.1,
        region_weight: float = 0.1,
        temperature: float = 0.1,
        pool: int = 1,
        gather: bool = True,
        num_classes: int | None = None,
        pixel_memory: int = 20000,
        region_memory: int = 2000,
        pixel_contrast: int = 4096,
        region_contrast: int = 1024,
        pixels_per_image: int = 16,
        resize: Resize | None = 'teacher',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, align='auto', resize=resize, **kwargs)
        check_weights(minibatch_weight=minibatch_weight, pixel_weight=pixel_weight, region_weight=region_weight)
        check_positive('temperature', temperature)
        counts = {'pixel_memory': pixel_memory, 'region_memory': region_memory, 'pixel_contrast': pixel_contrast}
        counts |= {'region_contrast': region_contrast, 'pixels_per_image': pixels_per_image, 'pool': pool}
        for name, value in {**counts, 'num_classes': 1 if num_classes is None else num_classes}.items():
            check_count(name, value, 1)
        self.minibatch_weight = minibatch_weight
        self.weights = {k: w for k, w in (('pixel', pixel_weight), ('region', region_weight)) if w}
        self.needs_labels = bool(self.weights)
        self.memory = {'pixel': pixel_memory, 'region': region_memory}
        self.contrast = {'pixel': pixel_contrast, 'region': region_contrast}
        self.pixels_per_image = pixels_per_image
        self.temperature = temperature
        self.pool = pool
        self.gather = gather
        self.class_count = num_classes  # mmdet's NumClassCheckHook compares each `num_classes` with the data

    # Construction

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Make projectors and queues of each level."""
        if self.weights and self.class_count is None:
            others = self.teacher is not None and self.teacher.option.other_classes
            self.class_count = self.state.classes if others else classes_of_head(self.teacher, 'decode_head')
            if self.teacher is not None and others and self.class_count is None:
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
        """Return the projector and the queues."""
        if self.minibatch_weight:
            check_directions(self.key, level.name, level.student[0])
            pooled = (1, *(-(-side // self.pool) for side in self.grid(level)))
            check_positions(self.key, f'{level.name} after pool={self.pool}', level.student, level.teacher, pooled)
        if not self.weights:
            return None
        check_directions(self.key, level.name, level.teacher[0])
        assert self.class_count is not None, 'found by setup'
        sizes = {kind: self.memory[kind] for kind in self.weights}
        return ClassMemory(level.student[0], level.teacher[0], self.class_count, sizes)

    # One step

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> dict[str, Tensor]:
        """Return the loss terms of one level; first the teacher's vectors of this step enter the queues."""
        terms = {}
        if self.minibatch_weight:
            terms['loss_minibatch'] = self.minibatch_weight * self.minibatch(student, teacher)
        if self.weights:
            # the only wait for the device in a step: pixels are chosen by class on the CPU
            labels = semantic_labels(data_samples, student.shape[2:], self.key, self.state.ignored_labels).cpu()
            for kind, value in self.memory_terms(student, teacher, labels, level).items():
                terms[f'loss_{kind}'] = self.weights[kind] * value
        return terms

    def minibatch(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the divergence of this process's pictures against those of all processes (with ``gather``)."""
        if self.pool > 1:
            student, teacher = (F.avg_pool2d(x, self.pool, ceil_mode=True) for x in (student, teacher))
        batch, pixels = len(student), student.shape[2] * student.shape[3]
        rows = [normalize_pixels(x)[0] for x in (student, teacher)]
        keys, pictures = [x.view(batch, pixels * x.shape[1]) for x in rows], rows[0].new_full((), batch)
        if self.gather:
            keys, pictures = [gather_rows_with_gradient(x) for x in keys], mean_over_ranks(pictures)
        s_keys, t_keys = (x.view(len(x), pixels, own.shape[1]) for x, own in zip(keys, rows, strict=True))
        weight = (1 / (pictures * pixels)).expand(batch * pixels)
        return similarity_divergence(rows[0], s_keys, rows[1], t_keys, temperature=self.temperature, row_weight=weight)

    def memory_terms(self, student: Tensor, teacher: Tensor, labels: Tensor, level: int) -> dict[str, Tensor]:
        """Add the teacher's vectors to the queues; return the divergence against samples from them, by kind.

        The labels are on the CPU.
        """
        assert self.class_count is not None, 'found by setup'
        memory = self._memory(level)
        rows, targets = (normalize_pixels(x)[0] for x in (memory.projector(student), teacher))
        if self.training:
            self._enqueue(targets.view(len(labels), -1, targets.shape[1]), labels.flatten(1), level)
        valid = to_device(is_class(labels.flatten(), self.class_count).nonzero()[:, 0], rows)
        rows, targets = rows[valid], targets[valid]
        count = mean_count(len(rows), rows)
        terms = {}
        for kind in self.weights:
            number = self.contrast[kind] // self.class_count + 1
            keys = memory.queue(kind).sample(number, self._stream(level, kind)).to(rows.dtype)[None]
            weight = (1 / count).expand(len(rows))
            terms[kind] = similarity_divergence(
                rows, keys, targets, keys, temperature=self.temperature, row_weight=weight
            )
        return terms

    @torch.no_grad()
    def _enqueue(self, targets: Tensor, labels: Tensor, level: int) -> None:
        memory, classes = self._memory(level), self.class_count
        assert classes is not None, 'found by setup'
        if 'region' in self.weights:
            regions = [region_means(rows, found, classes) for rows, found in zip(targets, labels, strict=True)]
            memory.queue('region').enqueue(*(torch.cat(x) for x in zip(*regions, strict=True)))
        if 'pixel' in self.weights:
            first = rows_before(len(labels), targets.device)
            pixels = []
            for number, (rows, found) in enumerate(zip(targets, labels, strict=True), start=first):
                stream = self._stream(level, f'picture {number}')
                chosen = choose_pixels(found, classes, self.pixels_per_image, stream)
                pixels.append((rows[to_device(chosen, rows)], found[chosen]))
            memory.queue('pixel').enqueue(*(torch.cat(x) for x in zip(*pixels, strict=True)))

    def _memory(self, level: int) -> ClassMemory:
        memory = self.parts[level]
        assert isinstance(memory, ClassMemory)
        return memory

    def _stream(self, level: int, place: str) -> torch.Generator:
        """Return a generator that is equal on all processes, unlike :meth:`generator`."""
        text = f'{self.state.seed}/{self.state.iteration}/{self.name}{self.state.part}/{level}/{place}'
        return torch.Generator().manual_seed(zlib.crc32(text.encode()))
