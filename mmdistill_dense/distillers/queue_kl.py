"""QueueKL: the similarities of a picture's vector to those of other pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.datasets.wrapped import count_pictures
from mmdistill_dense.distillers.base import Losses, Recorded
from mmdistill_dense.distillers.feature import Level
from mmdistill_dense.distillers.pcd.modules import AUTO_SIZE, NegativeQueue, warning
from mmdistill_dense.distillers.vector_distiller import VectorDistiller
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Count, Positive, Whole

if TYPE_CHECKING:
    from mmengine.runner import Runner

    from mmdistill_dense.networks.teacher import FrozenTeacher

# Most pictures of a training set, and the rows of its queue with 'auto'; more pictures get the longest queue.
SIZES = {50: 16, 100: 32, 250: 64, 500: 128, 1000: 256, 2000: 512, 4000: 1024, 10000: 2048, 20000: 4096}
LONGEST = 8192


@DISTILLERS.register_module()
class QueueKL(VectorDistiller):
    """Match how similar a picture's vector is to the teacher's vectors of other pictures, which a queue holds.

    With unit vectors ``s_b`` of the student's pooled map behind the head, ``t_b`` of the teacher and ``q_k`` of the
    queue, which holds the teacher's vectors of this step and of earlier ones, of all processes::

        loss_queue = mean_b KL(softmax_k(t_b . q_k / T) || softmax_k(s_b . q_k / T_s))

    Vectors (B, D), such as ``'cls'`` of a foundation model, are taken as they are. With ``own_key`` the queue holds
    earlier steps alone, and ``t_b`` is a key of picture b, to which the teacher's similarity is 1.

    Source: the first method of lightly-train 0.18 and the global term of its third, with ``queue_init='zeros'``; SEED,
    Fang et al., ICLR 2021, https://arxiv.org/abs/2101.04731, with ``own_key``, whose cross-entropy has the same
    gradient. Options:
    [docs/methods/queue_kl.md](../methods/queue_kl.md).
    """

    temperature: Positive = 0.07
    student_temperature: Positive | None = None
    queue_init: Literal['empty', 'random', 'zeros'] = 'empty'
    own_key: bool = False
    monitor_interval: Whole = 50

    def __init__(self, *taps: TapOption | None, queue_size: Count | Literal['auto'] = 'auto', **options: Any) -> None:
        super().__init__(*taps, **options)
        self.sharper = self.temperature / (self.student_temperature or self.temperature)
        self.queue_size = LONGEST if queue_size == AUTO_SIZE else int(queue_size)
        self.chosen_size: Tensor | None  # of 'auto', 0 until prepare(); a resumed run keeps it
        self.register_buffer('chosen_size', torch.zeros(1, dtype=torch.long) if queue_size == AUTO_SIZE else None)
        self._ranked = set[int]()  # levels, by the first view: the keys of later ones are of this step
        self._waiting = list[tuple[NegativeQueue, Tensor]]()  # with `own_key`, until all views are compared

    def build_level(self, level: Level) -> nn.Module:
        """Return the queue."""
        return NegativeQueue(self.queue_size, level.teacher[0], self.queue_init)

    def prepare(self, runner: Runner, teacher: FrozenTeacher) -> None:
        """Choose the queues' size if it is ``'auto'``; warn of long ones."""
        images = count_pictures(runner.train_dataloader.dataset)
        if self.chosen_size is not None:
            if not self.chosen_size.any():
                self.chosen_size.fill_(next((rows for most, rows in SIZES.items() if images <= most), LONGEST))
            self.queue_size = int(self.chosen_size)
            for level in range(len(self.parts)):
                self._queue(level).limit(self.queue_size)
            runner.logger.info(f"{self.key}.queue_size='auto': {self.queue_size} vectors.")
        elif long := warning(self.queue_size, images, 1, self.key):
            runner.logger.warning(long)

    def forward(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        """Return the loss of all levels and views; with ``own_key``, no view of a step is a key of another."""
        self._waiting.clear()  # of a call that ended in an error
        self._ranked.clear()
        terms = super().forward(student, teacher, data_samples)
        while self._waiting:
            queue, vectors = self._waiting.pop(0)
            queue.enqueue(vectors)
        return terms

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> Losses:
        """Return ``loss_queue`` of one level, and every ``monitor_interval`` steps the accuracy.

        The teacher's vectors enter before it, with ``own_key`` after all views.
        """
        s, t = self.unit_vectors(student, teacher, level, data_samples)
        queue = self._queue(level)
        terms: Losses = {}
        with torch.autocast(s.device.type, enabled=False):
            step = self.state.iteration  # in the first one, the first view finds an empty queue
            due = step > 0 and self.monitor_interval > 0 and step % self.monitor_interval == 0
            if due and level not in self._ranked and len(queue.negatives()) > 0:
                self._ranked.add(level)
                ranks = losses.key_ranks(s.detach(), t, queue.negatives())
                terms['acc_top1'] = 100 * (ranks < 1).to(s.dtype).mean()
            # a broken vector, whose step is skipped, must not stay in there; zeros do not enter
            new_keys = torch.where(t.isfinite().all(1, keepdim=True), t, 0)
            if self.training and not self.own_key:
                queue.enqueue(new_keys)
            keys = queue.negatives()[None]
            # not kept for the backward pass, before which the next vectors are written over its rows
            terms['loss_queue'] = losses.similarity_divergence(
                s * self.sharper, keys, t, keys, temperature=self.temperature, own_key=self.own_key
            )
            if self.training and self.own_key:
                self._waiting.append((queue, new_keys))
        return terms

    def _queue(self, level: int) -> NegativeQueue:
        queue = self.parts[level]
        assert isinstance(queue, NegativeQueue)
        return queue
