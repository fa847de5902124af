"""PCD: pixel-wise contrastive distillation, for pre-training on two views and inside supervised training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.config.unknown_keys import read_options
from mmdistill_dense.datasets.wrapped import count_pictures
from mmdistill_dense.distillers.base import Distiller, Losses, Recorded, Shapes
from mmdistill_dense.distillers.pcd.modules import (
    AUTO_SIZE,
    HEAD,
    ROWS,
    AttentionOption,
    ChannelCenter,
    Head,
    LevelTensors,
    NegativeQueue,
    PixelAttention,
    build_head,
    check_no_head,
    choose_size,
    inside_images,
    inside_on_device,
    masked_mean,
    random_pixels,
    read_counts,
    take_pixels,
    warning,
)
from mmdistill_dense.losses.infonce import MIN_NORM
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.distributed import world_size
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Count, Positive, Resize, Whole, check_directions, check_map

if TYPE_CHECKING:
    from mmengine.runner import Runner

    from mmdistill_dense.networks.teacher import FrozenTeacher


Views = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[tuple[int, int]]]  # of a level, and the pairs to compare


@DISTILLERS.register_module()
class PCD(Distiller):
    """Pixel-wise contrast: the positive of a student pixel is the teacher's at the same place, a queue the negatives.

    With unit vectors, averaged over the pixels::

        l_p = -log softmax([s_p.t_p, s_p.q_1, ..., s_p.q_K] / tau)[0]

    The student's map first goes through attention, projector and predictor, which only training needs; the teacher's
    pooled vectors of all processes enter the queue after the loss. Of two views, ``'cross'`` compares the student's map
    of one with the teacher's of the other, as released; maps of one picture are compared with each other (``'same'``).

    Source: Huang & Guo, "Pixel-Wise Contrastive Distillation", ICCV 2023, https://arxiv.org/abs/2211.00218; of the
    attention the paper gives only the idea. Ours: the use inside supervised training (``'same'`` with one picture,
    ``head=dict(type='linear')``, ``num_pixels``, ``resize``, padding left out, ``center``). Options:
    [docs/methods/pcd.md](../methods/pcd.md).
    """

    no_auto: ClassVar[str] = ''

    student_tap = 'backbone[-1]'
    temperature: Positive = 0.2
    queue_init: Literal['empty', 'random'] = 'empty'
    enqueue: Literal['pooled', 'pixels'] = 'pooled'
    keys_per_image: Count = 1
    head: Mapping[str, Any] | None = HEAD
    view_pairing: Literal['cross', 'same'] | None = None
    resize: Resize = 'teacher'
    num_pixels: Count | None = 1024
    vectors: bool = False
    monitor_interval: Whole = 50

    def __init__(
        self,
        *taps: TapOption | None,
        queue_size: Count | Literal['auto'] = 1024,
        attention: Mapping[str, Any] | None = None,
        center: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*taps, **options)
        self.projection = None if self.head is None else read_options(Head, self.head, 'head')
        self.attend = None if attention is None else read_options(AttentionOption, attention, 'attention')
        self.queue_size = ROWS if queue_size == AUTO_SIZE else int(queue_size)
        if queue_size == AUTO_SIZE:
            if self.keys_per_image != 1:
                problem = f'chooses keys_per_image too, but keys_per_image={self.keys_per_image} is given'
                raise ValueError(f"queue_size='auto' {problem}: leave it out or name queue_size as well.")
            if options.get('enqueue') == 'pooled':
                raise ValueError("queue_size='auto' keeps pixels, but enqueue='pooled' is given: leave one out.")
            self.enqueue = 'pixels'
        self.centered = center
        self.weights: list[float] = []
        self.chosen_size: Tensor | None  # rows and keys of 'auto', 0 until prepare(); a resumed run keeps them
        self.register_buffer('chosen_size', torch.zeros(2, dtype=torch.long) if queue_size == AUTO_SIZE else None)

    # Construction

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Make the modules of each level: ``projector.0.weight``, or with several levels ``projector.<level>.…``."""
        parts: dict[str, list[nn.Module]] = {}
        for weight, taps, s_shapes, t_shapes in self.paired_shapes(student, teacher):
            for s, t in zip(s_shapes, t_shapes, strict=True):
                check_map(self.key, taps, s[1:])
                check_map(self.key, taps, t[1:])
                check_directions(self.key, taps, t[1])
                if self.head is None:
                    check_no_head(self.key, taps, s[1], t[1])
                try:
                    built = self._build_level(s[1], t[1])
                except ValueError as error:
                    raise ValueError(f'{self.key}: {taps}: {error}') from None
                for name, part in built.items():
                    parts.setdefault(name, []).append(part)
                self.weights.append(weight)
        for name, modules in parts.items():
            self.add_module(name, modules[0] if len(modules) == 1 else nn.ModuleList(modules))

    def _build_level(self, channels: int, out: int) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module] = {'queue': NegativeQueue(self.queue_size, out, self.queue_init)}
        if self.attend:
            parts['attention'] = PixelAttention(channels, self.attend.num_heads)
        if self.centered:
            parts['center'] = ChannelCenter(out)
        if self.projection is None:
            return parts
        return parts | build_head(self.projection, channels, out, self.teacher)

    def check_data(self, pictures: int) -> None:
        """Refuse too few pictures for ``queue_size='auto'``; a resumed run keeps the size that it has."""
        if self.chosen_size is not None and not self.chosen_size.any():
            choose_size(pictures, 1, self.key)

    def prepare(self, runner: Runner, teacher: FrozenTeacher) -> None:
        """Choose the queues' size if it is ``'auto'``; log how the loss moves while they fill; warn of long ones."""
        loader: Any = runner.train_dataloader
        images = count_pictures(loader.dataset)
        if self.chosen_size is not None:
            if not self.chosen_size.any():
                per_step = loader.batch_sampler.batch_size * world_size()
                self.chosen_size.copy_(torch.tensor(choose_size(images, per_step, self.key)))
            self.queue_size, self.keys_per_image = self.chosen_size.tolist()
            for level in range(len(self.weights)):
                self._queue(level).limit(self.queue_size)
            size = f'{self.queue_size} keys, {self.keys_per_image} of each picture'
            runner.logger.info(f"{self.key}.queue_size='auto': {size}.")
        if (filled := int(self._queue(0).filled)) < self.queue_size:
            runner.logger.info(
                f'{self.key}: the queue holds {filled} of {self.queue_size} keys; loss_pcd '
                f'{"goes on rising" if filled else "starts near 0 and rises"} with the logarithm of their number until '
                'the queue is full, and falls after that.'
            )
        keys = 1 if self.enqueue == 'pooled' else self.keys_per_image
        if long := warning(self.queue_size, images, keys, self.key):
            runner.logger.warning(long)

    # One step

    def forward(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        """Return ``loss_pcd`` and, every ``monitor_interval`` steps, the accuracies; then keys enter the queues."""
        levels = enumerate(self.levels(student, teacher))
        read_counts([self._queue(level) for level in range(len(self.weights))])
        terms = [self._level(level, views, data_samples) for level, views in levels]
        for term, weight in zip(terms, self.weights, strict=True):
            term['loss_pcd'] = weight * term['loss_pcd']
        # a level whose queue is still empty has no ranks
        names = [name for name in terms[0] if all(name in term for term in terms)]
        return {name: torch.stack([term[name] for term in terms]).mean() for name in names}

    def levels(self, student: Recorded, teacher: Recorded) -> list[Views]:
        """Return the student's and the teacher's maps of each level by view, and the pairs of views to compare."""
        students, teachers = zip(*self.views(student, teacher), strict=True)
        count = len(students)
        pairing = self.view_pairing or ('cross' if count == 2 else 'same')
        if pairing == 'cross' and count != 2:
            problem = f"{self.key}.view_pairing='cross' needs two views, the step has {count}"
            raise ValueError(f"{problem}; use 'same', or data with MultiView.")
        pairs = [(0, 1), (1, 0)] if pairing == 'cross' else [(view, view) for view in range(count)]
        maps = zip(zip(*students, strict=True), zip(*teachers, strict=True), strict=True)
        return [(s, t, pairs) for s, t in maps]

    def _level(self, level: int, views: Views, data_samples: Samples) -> Losses:
        """Return the terms of one level; then its keys enter the queue."""
        tensors = self.compare(level, views, data_samples)
        with torch.autocast(tensors.key_map.device.type, enabled=False):
            queue = self._queue(level)
            terms = {'loss_pcd': tensors.contrast(queue.negatives(), self.temperature)}
            due = self.monitor_interval > 0 and self.state.iteration % self.monitor_interval == 0
            if due and len(queue.negatives()) > 0:
                vectors = masked_mean(tensors.heads[0].detach().to(tensors.key_map.dtype), tensors.valid)
                ranks = losses.key_ranks(vectors, tensors.key(), queue.negatives())
                terms |= {f'acc_top{n}': 100 * (ranks < n).to(tensors.key_map.dtype).mean() for n in (1, 5)}
            if self.training:
                queue.enqueue(self._keys(tensors, level))
                center = self._part('center', level)
                if isinstance(center, ChannelCenter):
                    center.update(tensors.key_map, tensors.mask)
        return terms

    def compare(self, level: int, views: Views, data_samples: Samples) -> LevelTensors:
        """Return the tensors that one level of a step compares; neither computes a loss nor changes the queue.

        With a single view the data samples tell which pixels are padding.
        """
        students, teachers, pairs = views
        if self.vectors:  # maps of one position, the means (B, C, 1, 1) over the positions inside the pictures
            samples = data_samples if len(students) == 1 else []  # views have no shapes of their own
            students, teachers = (
                [masked_mean(x, inside_on_device(samples, x))[..., None, None] for x in maps] for maps in views[:2]
            )
        if self.resize == 'student':
            students = [losses.to_grid(s, t.shape[2:]) for s, t in zip(students, teachers, strict=True)]
        sizes = [s.shape[2:] for s in students]
        indices = [self.positions(size.numel(), level) for size in sizes]
        heads = [self._embed(level, s, where) for s, where in zip(students, indices, strict=True)]
        pixels = len(students) == 1 and not self.vectors
        inside = inside_images(data_samples, students[0]) if pixels else None
        mask = None if inside is None else losses.to_device(inside, students[0])
        valid = None if mask is None else take_pixels(mask, indices[0])
        with torch.autocast(heads[0].device.type, enabled=False):
            center = self._part('center', level)
            maps = [center(t.detach().to(losses.loss_dtype(t))) for t in teachers]
            grids = {(i, j): losses.to_grid(maps[j], sizes[i]) for i, j in {(0, 0), *pairs}}
            targets = [take_pixels(grids[i, j], indices[i]) for i, j in pairs]
            rows = [losses.pixel_pairs(heads[i], t, valid) for (i, _), t in zip(pairs, targets, strict=True)]
            return LevelTensors(heads, grids[0, 0], mask, valid, rows, inside)

    def positions(self, pixels: int, level: int) -> Tensor | None:
        """Return this iteration's flat pixel indices of a level; ``None`` is all."""
        if self.num_pixels is None or pixels <= self.num_pixels:
            return None
        return torch.randperm(pixels, generator=self.generator(level))[: self.num_pixels]

    def _embed(self, level: int, x: Tensor, index: Tensor | None) -> Tensor:
        x = take_pixels(self._part('attention', level)(x), index)
        return self._part('predictor', level)(self._part('projector', level)(x))

    def _part(self, name: str, level: int) -> nn.Module:
        part = self._modules.get(name) or nn.Identity()
        return part[level] if isinstance(part, nn.ModuleList) else part

    def _queue(self, level: int) -> NegativeQueue:
        queue = self._part('queue', level)
        assert isinstance(queue, NegativeQueue)
        return queue

    def _keys(self, tensors: LevelTensors, level: int) -> Tensor:
        """Return the unit vectors for the queue; vectors without a direction are zeros, which do not enter."""
        if self.enqueue == 'pooled':
            keys = tensors.key()
        else:
            keys = random_pixels(tensors.key_map, tensors.inside, self.keys_per_image, self.generator(level))
        norms = keys.norm(dim=1, keepdim=True)
        return torch.where((norms > MIN_NORM) & norms.isfinite(), keys / norms, 0)
