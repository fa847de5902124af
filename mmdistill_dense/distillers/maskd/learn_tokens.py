"""Learn tokens on the training data of a run: the loop, its batches and its log lines."""

# This is not an mmengine Runner. A Runner inside the run's before_train was tried: it learns the same bits but takes
# more code. Averaging, skipped steps and unfinished files need their own train_step anyway, and the inner Runner would
# have to be isolated from the run's logger, MessageHub, Visualizer, random streams, model wrapper and folder.

from __future__ import annotations

import copy
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from torch import nn
from torch.utils.data import DataLoader

from mmdistill_dense.distillers.maskd.gated_teacher import only_possible_heads, task_loss, training_objective
from mmdistill_dense.distillers.maskd.token_files import Values
from mmdistill_dense.distillers.maskd.token_learner import Step, Task, TokenLearner
from mmdistill_dense.guards.class_counts import check_num_classes
from mmdistill_dense.networks.first_look import refuse_blind
from mmdistill_dense.utils.distributed import mean_over_ranks, unwrap
from mmdistill_dense.utils.protocols import Samples
from mmdistill_dense.utils.random_streams import fork_rng, mix, seed_everything
from mmdistill_dense.utils.reproducible import SeededBatches

if TYPE_CHECKING:
    from mmengine.runner import Runner


def learn_tokens(
    task: Task, runner: Runner, partial: Mapping[str, Any] | None, save: Callable[[TokenLearner], None]
) -> Values:
    """Learn the tokens of a distiller; all processes of a run call it together.

    Random streams, the run's loader and the teacher (weights, buffers, modes, hooks) are restored at the end. The
    method ``after_prepare_iter(runner, done, whole)`` of hooks that have it is called after each iteration.

    Args:
        task: The teacher, its taps, shapes of the tokens and options.
        runner: Source of data, preprocessor, seed and logger.
        partial: State of interrupted learning to continue from.
        save: Called with the learner every ``save_interval`` iterations.

    Returns:
        The learned values, equal on all processes.

    Raises:
        ValueError: For a teacher without a training loss, or with another number of classes than the labels; for
            pictures that are not normalised as it expects.
        RuntimeError: When the loss is not finite ten times in a row; names the iteration and the level.
    """
    network: Any = task.teacher.network
    if not hasattr(network, 'loss'):
        raise ValueError(
            f'distillers.{task.name}: tokens are learned through the training loss of {task.teacher.key}, but '
            f'{type(network).__name__} has none; set tokens to a file of learned ones.'
        )
    _check_classes(task, runner)
    learner = _begin(task, runner, partial)
    seed, first, whole = learner.origin['seed'], learner.iteration, task.options.max_iters
    preprocessor = copy.deepcopy(unwrap(runner.model).data_preprocessor)  # some have a state, which belongs to the run
    report = _Report(task, runner.logger, learner.iteration)
    loader = learning_batches(runner.train_dataloader, seed, learner.iteration)
    with fork_rng(), training_objective(network), torch.enable_grad(), loader as batches:
        while learner.iteration < whole:
            batch = next(batches)
            seed_everything(mix(seed, get_rank(), learner.iteration, 2))
            data = preprocessor(batch, True)
            inputs, samples = task.teacher.renormalised(data['inputs']), data['data_samples']
            if learner.iteration == first:
                refuse_blind(task.teacher.key, [task.teacher.look(inputs, {})], runner.cfg)
            report.masks(network, samples)
            told = report.due(learner.iteration)
            labels = copy.deepcopy(samples) if told else samples
            step = learner.step(inputs, samples)
            runner.call_hook('after_prepare_iter', done=learner.iteration, whole=whole)
            if told:
                with torch.no_grad():
                    plain = mean_over_ranks(task_loss(network, inputs, labels).detach())
                report.write(learner.iteration, step, float(plain))
            if learner.iteration % task.options.save_interval == 0 and learner.iteration < whole:
                save(learner)
    return learner.detached()


def _check_classes(task: Task, runner: Runner) -> None:
    """Refuse labels that mean other classes to the teacher; ``allow_other_classes`` lets it pass up to here."""
    metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', {})
    try:
        check_num_classes(metainfo.get('classes'), task.teacher.key, task.teacher.config.model)
    except ValueError as error:
        raise ValueError(
            f'distillers.{task.name}: tokens are learned from the labels of this run through the training loss of '
            f'{task.teacher.key}, which has other classes. Set tokens to a file that was learned on its own data. '
            f'{error}'
        ) from error


def _begin(task: Task, runner: Runner, partial: Mapping[str, Any] | None) -> TokenLearner:
    """Return a new learner, or one restored from ``partial`` if that has the same origin."""
    seeds = [mix(runner.seed, zlib.crc32(task.name.encode()))]
    broadcast_object_list(seeds)  # the seeds of processes may differ; tokens and order of the data must not
    network: Any = task.teacher.network
    learner = TokenLearner(task, seeds[0], next(network.parameters()).device)
    learner.origin.update(batch_size=runner.train_dataloader.batch_sampler.batch_size, processes=get_world_size())
    if partial is not None and partial['origin'] == learner.origin:
        learner.load_state_dict(partial)
    elif partial is not None:
        runner.logger.warning(
            f'{task.name}: the unfinished tokens were started with {partial["origin"]}, but this run has '
            f'{learner.origin} and would continue to other values: learning starts anew.'
        )
    return learner


@contextmanager
def learning_batches(loader: DataLoader, seed: int, start: int) -> Iterator[Iterator[Any]]:
    """Yield endless batches of a loader's data set, with its batch size, collation, workers and grouping.

    The loader itself is not touched. Each process gets its own part. The content of a batch depends only on seed, rank
    and the number of the batch; the workers end with the context.

    Args:
        loader: The run's training loader.
        seed: Seed of the order and the augmentation.
        start: Number of the first batch; those before it are not loaded.
    """
    workers = loader.num_workers
    own: DataLoader = DataLoader(
        loader.dataset,
        batch_sampler=_group(loader, seed),
        collate_fn=loader.collate_fn,
        num_workers=workers,
        pin_memory=loader.pin_memory,
        prefetch_factor=loader.prefetch_factor if workers else None,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
    )
    batches = SeededBatches(own, seed, get_rank())
    batches.skip_iter(start)
    try:
        yield batches
    finally:
        batches.close()


def _group(loader: DataLoader, seed: int) -> Any:
    """Return a batch sampler of the loader's kind (e.g. by aspect ratio) over an endless order of the data."""
    configured: Any = loader.batch_sampler
    dataset: Any = loader.dataset
    sampler = InfiniteSampler(dataset, shuffle=True, seed=mix(seed, 0))
    try:
        return type(configured)(sampler, configured.batch_size, True)
    except TypeError as error:
        raise ValueError(
            f'train_dataloader.batch_sampler: learning tokens needs a second one, but '
            f'{type(configured).__name__}(sampler, batch_size, drop_last) fails ({error}). Learn the tokens in a run '
            'with another batch sampler (tools/learn_tokens.py) and give the file as tokens=.'
        ) from error


class _Report:
    """Log lines of token learning."""

    def __init__(self, task: Task, logger: Any, start: int) -> None:
        self.task = task
        self.logger = logger
        self.last = (start, time.monotonic())
        self.silent = False

    def masks(self, network: nn.Module, data_samples: Samples) -> None:
        """Log once that the mask branch is off."""
        with only_possible_heads(network, data_samples) as off:
            if off and not self.silent:
                self.silent = True
                self.logger.info(
                    f'{self.task.name}: the data hold no instance masks, so the mask branch of {self.task.teacher.key} '
                    'is left out of its loss while tokens are learned (published tokens had it).'
                )

    def due(self, iteration: int) -> bool:
        """Return whether a line follows this iteration."""
        return (iteration + 1) % self.task.options.log_interval == 0 or iteration + 1 == self.task.options.max_iters

    def write(self, done: int, step: Step, plain: float) -> None:
        """Write one line after ``done`` iterations."""
        before, then = self.last
        self.last = (done, time.monotonic())
        seconds = (self.last[1] - then) / max(done - before, 1)
        left = timedelta(seconds=round(seconds * (self.task.options.max_iters - done)))
        self.logger.info(
            f'{self.task.name}: tokens [{done}/{self.task.options.max_iters}] lr: {step.rate:.3e}  '
            f'task loss: {step.task:.4f} (without gate: {plain:.4f})  dice: {_list(step.dice)}  '
            f'mask area: {_list(step.area)}  time: {seconds:.3f}  eta: {left}'
        )


def _list(numbers: Sequence[float]) -> str:
    return ' '.join(f'{number:.3f}' for number in numbers)
