"""Ask the rules of ``guards`` where a run begins: errors stop it before its first step, warnings are logged."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from mmdistill_dense.config.unknown_keys import check_keys
from mmdistill_dense.datasets.wrapped import count_pictures
from mmdistill_dense.engine.ddp import check_equal_epochs
from mmdistill_dense.guards import run_rules
from mmdistill_dense.guards.config import check_custom_keys, check_pretrained, check_teacher_classes
from mmdistill_dense.guards.findings import ERROR, NOTE, Findings, RunFacts, note, warning
from mmdistill_dense.guards.runner import (
    Reached,
    check_checkpoints,
    check_loaded,
    check_loaders,
    check_recomputed,
    check_trained,
)
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.networks.inputs import check_teacher_inputs
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.runner_internals import built_loop, has_loaded, resumes, start_file

_STRATEGIES = ('SingleDeviceStrategy', 'DDPStrategy', 'NoneType')


class RunGuards(Hook):
    """Asks each rule of :mod:`mmdistill_dense.guards` as early as possible: errors stop a run, warnings are logged."""

    def __init__(self) -> None:
        self._facts: RunFacts | None = None  # until the rules of the first step are asked
        self._handles: list[RemovableHandle] = []
        self._unseen: list[FrozenTeacher] = []
        self._reached: Reached | None = None

    def before_run(self, runner: Runner) -> None:
        """Check the config, the loaders and the wrapper before any weight is loaded."""
        check_keys(runner.cfg)
        check_loaders(runner)
        check_checkpoints(runner)
        model: Any = unwrap(runner.model)
        distilled = isinstance(model, Distilled)
        network = model.distillation.student.model if distilled else runner.cfg.get('model')
        trains = built_loop(runner) is not None
        splits = ('train', 'val') if trains else ('test',)
        facts = RunFacts(runner.cfg, network=network, processes=get_world_size(), model=model, splits=splits)
        _report(runner, run_rules.CONFIG if trains else run_rules.TEST, facts)
        if distilled:
            _check_wrapper(runner)
            check_custom_keys(runner, model)
            check_recomputed(runner, model)
        self._facts = facts if trains else None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        check_loaded(runner, checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Check pre-trained weights, classes and the student; log the origin of the teachers' weights."""
        check_equal_epochs(runner)
        model = unwrap(runner.model)
        if not has_loaded(runner):
            begins = runner.iter == 0 and not (runner.cfg.get('model') or {}).get('inherit')
            check_pretrained(model, loaded=begins)
        dataset = runner.train_dataloader.dataset
        classes = (metainfo := getattr(dataset, 'metainfo', None) or {}).get('classes')
        if (facts := self._facts) is not None:
            facts.data_classes, facts.panoptic = classes, 'thing_classes' in metainfo
            val = getattr(getattr(built_loop(runner, 'val'), 'dataloader', None), 'dataset', None)
            scored = (getattr(val, 'metainfo', None) or {}).get('classes')
            facts.scored_classes = {} if scored is None else {'val_dataloader': scored}
            facts.has_weights = bool(start_file(runner) or resumes(runner))
            _report(runner, (*run_rules.DATA, *run_rules.MODEL), facts)
        self._handles += [
            model.register_forward_pre_hook(partial(self._before_pass, runner), with_kwargs=True),
            model.register_forward_hook(partial(self._after_pass, runner)),
        ]
        if not isinstance(model, Distilled):
            return
        check_trained(runner, model.distillers)
        pictures = count_pictures(dataset) if hasattr(dataset, '__len__') else None
        rule = partial(check_distillation, classes=classes, pictures=pictures, max_iters=runner.max_iters)
        _report(runner, [rule], model)
        for teacher in model.distillation.teachers.values():
            if teacher.receipt:
                runner.logger.info(f'{teacher.key}: {teacher.receipt.config}, {teacher.receipt.describe()}')
        self._reached = None if getattr(model, 'has_task', True) else Reached(model)
        self._unseen = list(model.distillation.teachers.values())

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        facts = self._facts
        if facts is not None and facts.batch is None and isinstance(data_batch, Mapping):
            facts.batch = data_batch
            _report(runner, run_rules.BATCH, facts)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Warn of parts of a pre-trained student that nothing trains; under DDP, torch stops before the next step."""
        if self._reached is not None and (problem := self._reached.warning()):
            runner.logger.warning(problem)
        self._reached = None

    def after_train(self, runner: Runner) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _before_pass(self, runner: Runner, model: nn.Module, _: Any, kwargs: Mapping[str, Any]) -> None:
        """Ask the rules of the first step, and look at each teacher's, also of a resumed run.

        A validation may come first, and passes of a hook on one rank do not count.
        """
        if (facts := self._facts) is not None and facts.batch is not None:
            inputs, self._facts = kwargs.get('inputs'), None
            views = inputs if isinstance(inputs, (list, tuple)) else [inputs]
            facts.batch_shape = [list(view.shape) for view in views if isinstance(view, Tensor)]
            _report(runner, run_rules.STEP, facts)
        for teacher in self._unseen:
            teacher.input_stats = []

    def _after_pass(self, runner: Runner, *_: Any) -> None:
        stats_of_teachers = {teacher: teacher.input_stats for teacher in self._unseen if teacher.input_stats}
        for teacher in self._unseen:
            teacher.input_stats = None
        self._unseen = [teacher for teacher in self._unseen if teacher not in stats_of_teachers]
        if not self._unseen and self._facts is None:
            self.after_train(runner)
        for teacher, stats in stats_of_teachers.items():
            torch.compiler.disable(check_teacher_inputs)(teacher.key, stats, runner.cfg)


def check_distillation(
    model: Distilled, classes: Sequence[str] | None, pictures: int | None, max_iters: int, loaded: bool = True
) -> Findings:
    """Check schedules, number of pictures, and the classes of the teachers; ``loaded``: with a run's own weights."""
    for distiller in model.distillers.values():
        if problem := distiller.schedule.check(f'model.{distiller.key}', max_iters):
            yield warning(problem)
        if pictures is not None:
            distiller.check_data(pictures)
    for teacher in model.distillation.teachers.values():
        yield from map(note, check_teacher_classes(classes, teacher, model.distillers.values()))
        if loaded and teacher.receipt is not None and teacher.receipt.file is None:
            yield warning(f'{teacher.key} has random weights (allow_random=True): they teach nothing.')


def _report(runner: Runner, rules: Iterable[Callable[..., Findings | None]], facts: Any) -> None:
    """Log the warnings and notes of some rules; raise a ``ValueError`` for the first error."""
    for finding in (finding for rule in rules for finding in rule(facts) or ()):
        sentence = f'{finding.message} {finding.advice}'.rstrip()
        if finding.level == ERROR:
            raise ValueError(sentence)
        runner.logger.log(logging.INFO if finding.level == NOTE else logging.WARNING, sentence)


def _check_wrapper(runner: Runner) -> None:
    strategy = type(getattr(runner, 'strategy', None)).__name__
    sharded = is_model_wrapper(runner.model) and not isinstance(runner.model, DistributedDataParallel)
    if sharded or strategy not in _STRATEGIES:
        name = type(runner.model).__name__ if sharded else strategy
        raise ValueError(f'{name} shards the student, which distillers do not support: use DDP (--launcher pytorch).')
