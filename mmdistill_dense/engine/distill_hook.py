"""The hook that attends a distilled run: place in the run, random streams, distiller state, receipts."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dataset import worker_init_fn as mmengine_worker_init_fn
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import IterableDataset

from mmdistill_dense.config.resolve import is_distill_model
from mmdistill_dense.config.unknown_keys import check_keys
from mmdistill_dense.engine.averaging import average_the_student, place_distillers
from mmdistill_dense.engine.changes import tell_changes
from mmdistill_dense.engine.clipping import Clipping
from mmdistill_dense.engine.ddp import check_equal_epochs, warn_of_other_processes
from mmdistill_dense.engine.loss_guard import LossGuard, check_saved
from mmdistill_dense.engine.pending_validation import OwedValidation
from mmdistill_dense.engine.resume_file import (
    restore_sampler_seed,
    resume_from_a_whole_file,
    sampler_seed,
    tell_when_finished,
    tell_when_interrupted,
)
from mmdistill_dense.engine.run_identity import comparable, describe, identity
from mmdistill_dense.guards.config import (
    check_carrier,
    check_crop,
    check_load_from,
    check_num_classes,
    check_pretrained,
    check_teacher_classes,
    student_model,
    warn_of_batch,
)
from mmdistill_dense.guards.custom_keys import check_custom_keys
from mmdistill_dense.guards.runner import check_checkpoints, check_loaders, check_weights
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.random_streams import mix, seed_everything
from mmdistill_dense.utils.reproducible import ReplayedBatches, SeededBatches, WorkerSeed

_STRATEGIES = ('SingleDeviceStrategy', 'DDPStrategy')


@HOOKS.register_module()
class DistillHook(Hook):
    """Attends training; it stands in ``default_hooks`` of every schedule.

    For every model it reseeds torch's stream at each iteration from (seed, rank, iteration) and the loader's workers at
    each epoch, so that an interrupted run resumes to the same bits. For a ``DistillModel`` it also tells the distillers
    where the run stands, runs their ``prepare`` phase, clips their gradients, keeps their state in
    ``checkpoint['distillers']`` and the teacher's receipt in the checkpoint's meta, and checks both on resume.

    Args:
        resume_changed: Resume although teacher or distillers differ from those of the checkpoint; distillers that are
            not in it start anew, and with them the optimizer's state of all distillers. Defaults to False.
        skip_nonfinite: How many steps in a row may be left out because their loss is not finite; one more stops the
            run and names the loss. Defaults to 0: the first one does. See :mod:`mmdistill_dense.engine.loss_guard`.

    Raises:
        ValueError: At start, for the mistakes in :mod:`mmdistill_dense.guards.config`; on resume, for another teacher
            or other distillers.
        RuntimeError: At a loss that is not finite, before the step; at weights that are not, before they are saved.
    """

    priority = 'HIGH'
    tells_of_resuming = True
    """Whether the log says what a resumed run goes on with; a measurement at a checkpoint is none."""

    def __init__(self, resume_changed: bool = False, skip_nonfinite: int = 0) -> None:
        if not isinstance(skip_nonfinite, int) or skip_nonfinite < 0:
            raise ValueError(
                'default_hooks.distill.skip_nonfinite must be a number of steps in a row, 0 for none, got '
                f'{skip_nonfinite!r}.'
            )
        self.resume_changed = resume_changed
        self.guard = LossGuard(skip_nonfinite)
        self.clipping = Clipping()

    def before_run(self, runner: Runner) -> None:
        """Refuse what cannot work before any weight is loaded; choose the file to resume from."""
        check_keys(runner.cfg)
        check_loaders(runner)
        check_checkpoints(runner)
        resume_from_a_whole_file(runner)
        if self.tells_of_resuming and isinstance(runner._train_loop, BaseLoop):
            tell_when_interrupted(runner)
        strategy = type(getattr(runner, 'strategy', None)).__name__
        model = unwrap(runner.model)
        if not is_distill_model(runner.cfg.get('model')):
            return
        check_carrier(runner.cfg)
        if not hasattr(model, 'distillation'):
            return
        place_distillers(runner, model)
        sharded = is_model_wrapper(runner.model) and not isinstance(runner.model, DistributedDataParallel)
        if sharded or strategy not in (*_STRATEGIES, 'NoneType'):
            name = type(runner.model).__name__ if sharded else strategy
            raise ValueError(
                f'{name} shards the student and is not supported with distillers; the student fits one device: '
                'use DDP (--launcher pytorch).'
            )
        check_custom_keys(runner, model)
        if runner._load_from and not runner._resume:  # a resumed run must say what it was made of
            model.distillation.inherit = ()

    def before_train(self, runner: Runner) -> None:
        """Check the run, give the model its progress, prepare the distillers, arrange the clipping."""
        loader = runner.train_dataloader
        if _is_epoch_based(runner) and loader.num_workers > 0 and loader.persistent_workers:
            raise ValueError(
                "train_dataloader.persistent_workers=True repeats each epoch's augmentations differently after a "
                'resume in epoch-based training: set it to False (iteration-based training may keep it).'
            )
        loop: Any = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop) and _has_default_workers(loader):
            place = (loader, runner.seed, get_rank())
            indexed = not isinstance(loader.dataset, IterableDataset)
            loop.dataloader_iterator = (
                SeededBatches(*place) if indexed else ReplayedBatches(loop.dataloader_iterator, *place)
            )
        if self.tells_of_resuming:
            tell_when_finished(runner)
        warn_of_batch(runner)
        check_equal_epochs(runner)
        runner.register_hook(OwedValidation())
        model = unwrap(runner.model)
        if not runner._has_loaded:
            check_pretrained(model)
        self.guard.attach(runner)
        distillation = getattr(model, 'distillation', None)
        if distillation is None:
            return
        student = student_model(runner.cfg.model)
        check_crop(runner.cfg.train_dataloader.get('dataset', {}), student)
        classes = (getattr(loader.dataset, 'metainfo', None) or {}).get('classes')
        check_num_classes(classes, 'model.student', student)
        for teacher in distillation.teachers.values():
            check_teacher_classes(classes, teacher)
            runner.logger.info(f'{teacher.key}: {teacher.receipt}')
        progress = distillation.progress
        progress.max_iters, progress.seed, progress.rank = runner.max_iters, runner.seed, get_rank()
        progress.iteration = runner.iter
        distillation.attended = True
        average_the_student(runner)
        for distiller in model.distillers.values():
            distiller.prepare(runner, distillation.teachers[distiller.teacher])
        self.clipping.attach(runner, model.distillers)

    def before_train_epoch(self, runner: Runner) -> None:
        """Restart the streams that the data pipeline draws from; iteration-based runs are one long epoch."""
        seed_everything(mix(runner.seed, get_rank(), runner.epoch))
        loader = runner.train_dataloader
        if _is_epoch_based(runner) and _has_default_workers(loader):
            loader.worker_init_fn = WorkerSeed(runner.seed, get_rank(), runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Reseed torch, or all streams where the pipeline has its own at each batch, and move the progress on."""
        batches = getattr(runner.train_loop, 'dataloader_iterator', None)
        reseed = seed_everything if isinstance(batches, SeededBatches) else torch.manual_seed
        reseed(mix(runner.seed, get_rank(), runner.iter))
        self.guard.before_step(unwrap(runner.model))
        distillation = getattr(unwrap(runner.model), 'distillation', None)
        if distillation is not None:
            distillation.progress.iteration = runner.iter

    def after_train(self, runner: Runner) -> None:
        """Take the guard and the clipping away again."""
        self.guard.detach(runner)
        self.clipping.detach()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write the receipt, and the distillers' state into files that a run can resume from."""
        model = unwrap(runner.model)
        checkpoint['meta'].update(processes=get_world_size(), sampler_seed=sampler_seed(runner))
        if hasattr(model, 'distillation'):
            checkpoint['meta']['distill'] = identity(model)
            if 'optimizer' in checkpoint:
                checkpoint['distillers'] = {name: value.cpu() for name, value in model.distillers.state_dict().items()}
        check_saved(checkpoint, model)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """On resume, compare teacher and distillers with the checkpoint's and restore the distillers' state."""
        model = unwrap(runner.model)
        if not runner._resume:
            check_load_from(model, checkpoint, runner._load_from)
        check_weights(runner, checkpoint)
        if not runner._resume:
            return
        warn_of_other_processes(runner, checkpoint)
        if self.tells_of_resuming:
            tell_changes(runner, checkpoint)
        restore_sampler_seed(runner, checkpoint)
        now = identity(model) if hasattr(model, 'distillation') else {}
        then = checkpoint.get('meta', {}).get('distill') or {}
        changed = comparable(then) != comparable(now)
        if changed and not self.resume_changed:
            raise ValueError(
                'This run and the checkpoint to resume differ in what is distilled.\n'
                f'  checkpoint: {describe(then)}\n  this run:   {describe(now)}\n'
                'Resume with the same teacher and distillers, start a new run from these weights with load_from=…, '
                'or set default_hooks.distill.resume_changed=True.'
            )
        if now:
            state = checkpoint.get('distillers')
            if state is None:
                raise ValueError(
                    'This checkpoint holds no optimizer and no distillers (save_best files are such): resume from an '
                    'iter_*.pth or epoch_*.pth, or start a new run from these weights with load_from=….'
                )
            own = model.distillers.state_dict()
            fits = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
            model.distillers.load_state_dict(fits if changed else state, strict=not changed)
        if changed and then.get('distillers') != now.get('distillers') and 'optimizer' in checkpoint:
            _fit_optimizer(checkpoint['optimizer'], runner, model)


def _fit_optimizer(saved: dict[str, Any], runner: Runner, model: nn.Module) -> None:
    """Keep the student's part of a saved optimizer state; the distillers' starts anew, as they are others now."""
    groups = runner.optim_wrapper.state_dict().get('param_groups', [])
    if len(groups) != 1 or len(saved.get('param_groups', [])) != 1:
        raise ValueError(
            'resume_changed=True cannot fit the optimizer to other distillers when it has several parameter groups '
            '(paramwise_cfg): start a new run from these weights with load_from=….'
        )
    students = sum(not name.startswith('distillers.') for name, _ in model.named_parameters())
    saved['param_groups'][0]['params'] = groups[0]['params']
    saved['state'] = {index: state for index, state in saved['state'].items() if index < students}


def _is_epoch_based(runner: Runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def _has_default_workers(loader: Any) -> bool:
    """Tell whether the workers' random streams are ours to set: a ``worker_init_fn`` of the user's stays."""
    configured = getattr(loader.worker_init_fn, 'func', loader.worker_init_fn)
    return configured is mmengine_worker_init_fn or isinstance(configured, WorkerSeed)
