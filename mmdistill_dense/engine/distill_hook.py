"""``DistillHook``, the one hook that a distilled run needs, and its parts."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from mmengine.dataset import worker_init_fn as mmengine_worker_init_fn
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, FlexibleRunner, IterBasedTrainLoop, Runner, loops
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from mmdistill_dense.config.unknown_keys import check_known
from mmdistill_dense.distillers.base import RunState
from mmdistill_dense.engine.interruption import Interruption
from mmdistill_dense.engine.loss_guard import Clipping, LossGuard
from mmdistill_dense.engine.resume import (
    Counters,
    PendingValidation,
    ResumeFile,
    describe_identity,
    differ,
    identity,
    same_distillers,
    same_teachers,
)
from mmdistill_dense.engine.run_guards import RunGuards
from mmdistill_dense.engine.work_folder import refuse_another_run
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.networks.building import complete_heads
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.generators import Generators, of_modules, walk_objects
from mmdistill_dense.utils.reproducible import (
    ReplayedBatches,
    SeededBatches,
    init_worker,
    mix,
    seed_everything,
    seed_torch,
)
from mmdistill_dense.utils.runner_internals import (
    between_steps,
    built_loop,
    fresh_loader,
    resumes,
    start_file,
    wrappers_of,
)
from mmdistill_dense.utils.validate import some
from mmdistill_dense.utils.version import removed
from mmdistill_dense.weights.mmengine_loader import install_reader


def average_the_student(runner: Runner) -> None:
    """Make every ``EMAHook`` of a run average the student alone, on both sides: it pairs tensors by their order."""
    for hook in runner.hooks:
        average = getattr(hook, 'ema_model', None)
        if isinstance(hook, EMAHook) and average is not None and hasattr(average.module, 'distillers'):
            hook.src_model = _without_distillers(hook.src_model)
            average.module = _without_distillers(average.module)
            averaged = average.avg_parameters
            for name in [name for name in averaged if name.startswith('distillers.')]:
                del averaged[name]


def place_distillers(runner: Runner, model: Distilled) -> None:
    """Move the distillers to the student's device if the run trains, to the CPU if it only tests."""
    trains = built_loop(runner) is not None
    model.distillers.to(next(model.parameters()).device if trains else 'cpu')


def _without_distillers(model: nn.Module) -> nn.Module:
    view = copy.copy(model)  # shares modules and tensors
    view._modules = {**model._modules, 'distillers': nn.ModuleDict()}
    return view


class SeededStreams(Hook):
    """Seeds torch's stream at each iteration from (seed, rank, iteration) and the loader's workers at each epoch."""

    _first = True  # whether the first step of this start is still to come
    _reseed: Callable[..., int] = staticmethod(seed_torch)  # all streams if the pipeline has its own for each batch
    _generators: Generators | None = None  # those of the model, if it has any

    def before_run(self, runner: Runner) -> None:
        if built_loop(runner) is not None:
            runner.register_hook(_SeededPipelines(), 'LOWEST')

    def before_train(self, runner: Runner) -> None:
        loader, loop, model = runner.train_dataloader, runner.train_loop, unwrap(runner.model)
        self._generators = Generators([getattr(model, 'data_preprocessor', None), of_modules(model)]) or None
        of_loader = Generators([loader.dataset, loader.collate_fn])
        names = of_loader.unseeded()
        if loader.num_workers and len(of_loader) > len(Generators(loader.dataset)):  # which workers do not show
            names.append('collate_fn')
        if names:
            runner.logger.warning(
                f'train_dataloader: {some(names)} draws random numbers that no seed reaches, so two runs of a '
                'seed differ, and a resumed run too: make the generator in __init__, where each batch seeds it.'
            )
        if isinstance(loop, EpochBasedTrainLoop) and loader.num_workers > 0 and loader.persistent_workers:
            problem = 'in training by epochs, it gives other augmentations after a resume'
            raise ValueError(f'train_dataloader.persistent_workers=True: {problem}: set it to False.')
        if resumes(runner) and (ahead := steps_ahead(loop)):  # mmengine's wrapper has counted from the steps of before
            runner.optim_wrapper.initialize_count_status(runner.model, loop.iter - ahead, loop.max_iters)
        if isinstance(loop, IterBasedTrainLoop) and _has_default_workers(loader):
            iterator, endless = loop.dataloader_iterator, loops._InfiniteDataloaderIterator
            has_indices = not isinstance(loader.dataset, IterableDataset)
            is_ours = isinstance(iterator, (SeededBatches, ReplayedBatches))
            restarts = is_ours or isinstance(iterator, endless)
            if is_ours or ((has_indices or restarts) and getattr(iterator, '_iterator', iterator) is not None):
                loop.dataloader = loader = fresh_loader(runner, loader)
            arguments = (loader, runner.seed, get_rank())
            # In place of mmengine's iterator, which does not seed each batch.
            if not has_indices:
                loop.dataloader_iterator = ReplayedBatches(endless if restarts else lambda _: iterator, *arguments)
            else:
                as_usual = getattr(type(loop), 'run', None) is IterBasedTrainLoop.run
                drops = as_usual and not hasattr(endless, 'skip_iter')
                loop.dataloader_iterator = SeededBatches(*arguments, dropped=loop.iter if drops else 0)
        seeds_batches = isinstance(getattr(loop, 'dataloader_iterator', None), SeededBatches)
        self._reseed = seed_everything if seeds_batches else seed_torch

    def before_train_epoch(self, runner: Runner) -> None:
        """Restart the random streams of the data pipeline; an iteration-based run is one long epoch."""
        seed_everything(runner.seed, get_rank(), runner.epoch)
        loader = runner.train_dataloader
        if isinstance(runner.train_loop, EpochBasedTrainLoop) and _has_default_workers(loader):
            loader.worker_init_fn = partial(init_worker, runner.seed, get_rank(), runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self._first and runner.iter and resumes(runner) and (reasons := '; '.join(_differences(runner))):
            runner.logger.warning(f'The resumed run may not end as an uninterrupted one does: {reasons}.')
        self._first = False
        seed = self._reseed(runner.seed, get_rank(), runner.iter)
        if self._generators is not None:
            self._generators.seed(seed)


class _SeededPipelines(Hook):
    """Seeds the generators of steps at each epoch, after hooks that replace them (mmdet's ``PipelineSwitchHook``)."""

    def before_train_epoch(self, runner: Runner) -> None:
        loader = runner.train_dataloader
        if not loader.num_workers:
            Generators([loader.dataset, loader.collate_fn]).seed(mix(runner.seed, get_rank(), runner.epoch))


def _differences(runner: Runner) -> Iterator[str]:
    loop, loader = runner.train_loop, runner.train_dataloader
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    at = getattr(getattr(loop, 'dataloader_iterator', None), 'position', None)
    if not _has_default_workers(loader) and (loader.num_workers or not by_epoch):  # nothing else calls it
        yield 'train_dataloader.worker_init_fn is your own, so pictures may be augmented in other ways'
    elif getattr(loop, 'fast_forward_on_resume', False):
        yield 'train_cfg.fast_forward_on_resume=True begins with the first batch again'
    elif not by_epoch and at not in (runner.iter, runner.iter + 1):
        yield f'train_cfg.type={type(loop).__name__!r} takes batches in its own way, so pictures may come again'
    parts = (part for part in walk_objects(loader.dataset) if 'results_cache' in getattr(part, '__dict__', {}))
    types = sorted({type(part).__name__ for part in parts})  # a property, or `__getattr__`, may have any effect
    if types and not (by_epoch and loader.num_workers):  # such workers begin anew at each epoch anyway
        yield f'{", ".join(types)} kept pictures of earlier batches, and begins without any'
    if not between_steps(runner):
        yield 'optim_wrapper.accumulative_counts: the gradients that waited for the next step were not saved'


def _has_default_workers(loader: DataLoader) -> bool:
    """Tell whether the loader has no ``worker_init_fn``, mmengine's or ours; a user's own one is not replaced."""
    return getattr(loader.worker_init_fn, 'func', loader.worker_init_fn) in (None, mmengine_worker_init_fn, init_worker)


class DistillerState(Hook):
    """Updates and saves the state of the distillers; has no effect on a model without any."""

    def __init__(self, resume_changed: bool = False) -> None:
        self.resume_changed = resume_changed
        self._state: RunState | None = None  # of a model that distils
        self._shift = 0

    def before_run(self, runner: Runner) -> None:
        """Move the distillers to their device; inherit nothing if a file has the weights."""
        model = unwrap(runner.model)
        complete_heads(model)
        if isinstance(model, Distilled):
            place_distillers(runner, model)
            if built_loop(runner) is not None and not getattr(model, 'has_task', True):
                last = max(distiller.schedule.end(runner.max_iters) for distiller in model.distillers.values())
                if last < runner.max_iters:
                    problem = f'nothing teaches this student behind iteration {last:g} of {runner.max_iters}'
                    raise ValueError(f'model.distillers: {problem}: let a schedule last to the end.')
            if start_file(runner) and not resumes(runner):  # a resumed run still needs the teacher's receipt
                model.distillation.inherit = ()

    def before_train(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        if not isinstance(model, Distilled):
            return
        seeds = [runner.seed]
        broadcast_object_list(seeds)  # randomness.diff_rank_seed gives each process its own; ours add the rank
        self._shift = steps_ahead(runner.train_loop)
        if self._shift:
            runner.logger.warning(
                f'Epoch {runner.epoch + 1} begins elsewhere than at {runner.iter}, as with another batch size: '
                f'schedules of distillers go on as at {runner.iter - self._shift} of {runner.max_iters}.'
            )
        model.distillation.enter_run(runner.max_iters, seeds[0], runner.iter - self._shift)
        average_the_student(runner)
        for distiller in model.distillers.values():
            assert distiller.teacher is not None, 'bound when the model was built'
            distiller.prepare(runner, distiller.teacher)
        self._state = model.distillation.state

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self._state is not None:
            self._state.iteration = runner.iter - self._shift

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the teachers' receipts, and the distillers' state if a run can resume from the file."""
        model = unwrap(runner.model)
        if isinstance(model, Distilled):
            checkpoint['meta']['distill'] = identity(model)
            if 'optimizer' in checkpoint:
                checkpoint['distillers'] = {name: value.cpu() for name, value in model.distillers.state_dict().items()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """On resume, compare teacher and distillers with the checkpoint's and restore the distillers' state."""
        if not resumes(runner):
            return
        model = unwrap(runner.model)
        after = identity(model) if isinstance(model, Distilled) else {}
        before = checkpoint.get('meta', {}).get('distill') or {}
        changed = differ(before, after)
        if changed and not self.resume_changed:
            raise ValueError(
                'This run and the checkpoint to resume differ in teachers, distillers or pictures without labels.\n'
                f'  checkpoint: {describe_identity(before)}\n  this run:   {describe_identity(after)}\n'
                'Resume with the same, start anew with load_from=…, or set default_hooks.distill.resume_changed=True.'
            )
        if isinstance(model, Distilled):
            _put_in_order(runner, model, list(before.get('distillers', ())))
            state = checkpoint.get('distillers', {})
            same, taught = same_distillers(before, after), same_teachers(before, after)
            trained = {name for name, _ in model.distillers.named_parameters()}
            # queues and statistics are of the teacher that they were gathered with
            of = {name: name.partition('.')[0] for name in state}
            fits = {name: state[name] for name in state if of[name] in (same if name in trained else taught)}
            model.distillers.load_state_dict(fits, strict=not changed and len(fits) == len(state))
            if reset := same & {of[name] for name in state.keys() - fits.keys()}:
                runner.logger.warning(
                    f'model.distillers: teachers of {some(sorted(reset))} were changed since the checkpoint: '
                    'queues and statistics begin anew.'
                )
            if measured := sorted(checkpoint.get('balance', ())):
                runner.logger.warning(f'The checkpoint has measured weights of {some(measured)}. {removed("balance")}')
        if changed and before.get('distillers') != after.get('distillers') and 'optimizer' in checkpoint:
            _fit_optimizer(checkpoint['optimizer'], runner, model)


def steps_ahead(loop: BaseLoop) -> int:
    """Return by how many steps a loop's iteration is off the place in its ``max_iters`` of the epochs that are done.

    mmengine goes on to count the steps of before, while ``max_iters`` is that of today's batch size and number of
    processes: after 3 of 6 epochs, a run whose batch was doubled would be at its end.
    """
    return loop.iter - loop.epoch * len(loop.dataloader) if isinstance(loop, EpochBasedTrainLoop) else 0


def _put_in_order(runner: Runner, model: Distilled, names: list[str]) -> None:
    """Put the distillers in the order that they had in a checkpoint: the optimizer's state goes by position."""
    if sorted(names) != sorted(model.distillers) or names == list(model.distillers):
        return
    for name in names:
        model.distillers[name] = model.distillers.pop(name)
    position = {parameter: number for number, parameter in enumerate(model.parameters())}
    for wrapper in wrappers_of(runner.optim_wrapper):
        groups = wrapper.optimizer.param_groups
        for group in groups:
            group['params'].sort(key=position.__getitem__)
        groups.sort(key=lambda group: [position[parameter] for parameter in group['params'][:1]])
    runner.logger.info(f'The distillers stay in the order of the checkpoint: {", ".join(names)}.')


def _fit_optimizer(saved: dict[str, Any], runner: Runner, model: nn.Module) -> None:
    """Keep the student's part alone of a saved optimizer state."""
    groups = runner.optim_wrapper.state_dict().get('param_groups', [])
    if len(groups) != 1 or len(saved.get('param_groups', [])) != 1:
        problem = 'cannot adapt an optimizer of several parameter groups (paramwise_cfg) to other distillers'
        raise ValueError(f'resume_changed=True {problem}: start a new run from these weights with load_from=….')
    students = sum(not name.startswith('distillers.') for name, _ in model.named_parameters())
    saved['param_groups'][0]['params'] = groups[0]['params']
    saved['state'] = {index: state for index, state in saved['state'].items() if index < students}


@HOOKS.register_module()
class DistillHook(Hook):
    """Calls hooks that do one thing each; the ``default_hooks`` of every schedule hold it.

    For every model, :class:`RunGuards` refuses a config that cannot work, :class:`SeededStreams` and
    :class:`ResumeFile` make an interrupted run resume to the same bits, :class:`Counters` lets it end where it would
    have, :class:`PendingValidation` runs a validation that an interruption prevented,
    :class:`mmdistill_dense.engine.interruption.Interruption` saves at SIGTERM and SIGUSR1, and :class:`LossGuard` stops
    at a loss that is not finite. For a ``DistillModel``, :class:`DistillerState` also tells the distillers how
    far the run is, prepares them and keeps their state in ``checkpoint['distillers']``, and :class:`Clipping` clips
    their gradients. What else the model's step consists of has parts of its own, such as the reader of
    ``model.unlabelled``.

    Args:
        resume_changed: Resume although teacher or distillers differ from those of the checkpoint. Distillers that are
            not in it, or have another class, shape or tap, start from scratch, and so does the optimizer's state of
            all distillers; queues also with another teacher. Defaults to False.
    """

    priority = 'HIGH'

    def __init__(self, resume_changed: bool = False, **options: Any) -> None:
        check_known('default_hooks.distill', options, ['resume_changed'])
        install_reader()  # a control is built without our code, so nothing else installs it
        # In this order at every event: a file is checked before its state is taken.
        self._before = RunGuards(), ResumeFile(), Counters(), SeededStreams(), DistillerState(resume_changed)
        self._after = LossGuard(), Clipping(), PendingValidation()
        self.parts: Sequence[Hook] = (*self._before, *self._after)
        self._begun = False

    def before_run(self, runner: Runner) -> None:
        if not self._begun:
            model = unwrap(runner.model)
            extras = model.distillation.extras if isinstance(model, Distilled) else ()
            self.parts = (*self._before, *(hook for extra in extras for hook in extra.hooks()), *self._after)
            self._call('before_run', runner)
            if built_loop(runner) is not None:
                refuse_another_run(runner)
            if not any(isinstance(hook, Interruption) for hook in runner.hooks):
                runner.register_hook(Interruption())
        self._begun = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if isinstance(runner, FlexibleRunner):  # which loads before its `before_run`
            self.before_run(runner)
            self._begun = True
        self._call('after_load_checkpoint', runner, checkpoint)

    def before_train(self, runner: Runner) -> None:
        self._call('before_train', runner)

    def before_train_epoch(self, runner: Runner) -> None:
        self._call('before_train_epoch', runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._call('before_train_iter', runner, batch_idx, data_batch)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._call('after_train_iter', runner, batch_idx, data_batch, outputs)

    def before_val_epoch(self, runner: Runner) -> None:
        self._call('before_val_epoch', runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._call('after_val_epoch', runner, metrics)

    def after_val(self, runner: Runner) -> None:
        self._call('after_val', runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self._call('before_save_checkpoint', runner, checkpoint)

    def after_train(self, runner: Runner) -> None:
        self._call('after_train', runner)

    def _call(self, event: str, *arguments: Any) -> None:
        for part in self.parts:
            getattr(part, event)(*arguments)
