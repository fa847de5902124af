"""Refuse a run with a known mistake before its first iteration, or in it."""

from __future__ import annotations

from functools import partial
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from mmdistill_dense.config.resolve import is_distill_model
from mmdistill_dense.config.unknown_keys import check_keys
from mmdistill_dense.engine.ddp import check_equal_epochs
from mmdistill_dense.guards.class_counts import check_student_classes, check_teacher_classes
from mmdistill_dense.guards.config import (
    check_crop,
    check_custom_keys,
    check_laid_over,
    check_pretrained,
    check_top_level_distillers,
    warn_of_batch,
)
from mmdistill_dense.guards.runner import check_checkpoints, check_loaded, check_loaders, check_trained
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.networks.inputs import refuse_blind
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.runner_internals import has_loaded

_STRATEGIES = ('SingleDeviceStrategy', 'DDPStrategy', 'NoneType')


class RunGuards(Hook):
    """Calls each function of :mod:`mmdistill_dense.guards` as early as possible."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._unseen: list[FrozenTeacher] = []

    def before_run(self, runner: Runner) -> None:
        """Check the config, the loaders and the wrapper before any weight is loaded."""
        check_keys(runner.cfg)
        check_loaders(runner)
        check_checkpoints(runner)
        if is_distill_model(runner.cfg.get('model')):
            check_top_level_distillers(runner.cfg)
            check_laid_over(runner.cfg)
            model = unwrap(runner.model)
            if isinstance(model, Distilled):
                _check_wrapper(runner)
                check_custom_keys(runner, model)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check that the file belongs to this network."""
        check_loaded(runner, checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Check batch size, pre-trained weights, crop and classes; log the origin of the teachers' weights."""
        warn_of_batch(runner)
        check_equal_epochs(runner)
        model = unwrap(runner.model)
        if not has_loaded(runner):
            check_pretrained(model)
        if not isinstance(model, Distilled):
            return
        check_trained(runner, model.distillers)
        dataset = runner.train_dataloader.dataset
        for distiller in model.distillers.values() if hasattr(dataset, '__len__') else ():
            distiller.check_data(len(dataset))
        student = model.distillation.student.model
        loader = runner.cfg.get('train_dataloader') or {}  # none if the runner was built without a config
        check_crop(loader.get('dataset', {}), student)
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        check_student_classes(classes, student)
        for teacher in model.distillation.teachers.values():
            for line in check_teacher_classes(classes, teacher, model.distillers.values()):
                runner.logger.info(line)
            runner.logger.info(f'{teacher.key}: {teacher.receipt.told() if teacher.receipt else None}')
        for extra in model.distillation.extras:
            extra.check_classes(model, model.distillation.teachers)
        self._unseen = list(model.distillation.teachers.values())
        self._handles = [
            model.register_forward_pre_hook(self._look),
            model.register_forward_hook(partial(self._refuse_blind, runner)),
        ]

    def after_train(self, runner: Runner) -> None:
        """Look at no more batches, if a teacher was never asked."""
        self._stop_looking()

    def _look(self, *_: Any) -> None:
        """Look at each teacher's first step, also in a resumed run. What hooks ask one process for is no step."""
        for teacher in self._unseen:
            teacher.looks = []

    def _refuse_blind(self, runner: Runner, *_: Any) -> None:
        looks = [(teacher, teacher.looks) for teacher in self._unseen]
        for teacher in self._unseen:
            teacher.looks = None
        self._unseen = [teacher for teacher, found in looks if not found]
        if not self._unseen:
            self._stop_looking()
        for teacher, found in looks:
            if found:
                refuse_blind(teacher.key, found, runner.cfg)

    def _stop_looking(self) -> None:
        while self._handles:
            self._handles.pop().remove()


def _check_wrapper(runner: Runner) -> None:
    strategy = type(getattr(runner, 'strategy', None)).__name__
    sharded = is_model_wrapper(runner.model) and not isinstance(runner.model, DistributedDataParallel)
    if sharded or strategy not in _STRATEGIES:
        name = type(runner.model).__name__ if sharded else strategy
        raise ValueError(
            f'{name} shards the student, which is not supported with distillers: use DDP (--launcher pytorch), since '
            'the student fits on one device.'
        )
