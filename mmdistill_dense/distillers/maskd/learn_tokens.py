"""Learns tokens: the teacher's training loss behind the gate plus Dice, differentiated for the tokens alone."""

from __future__ import annotations

import copy
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import all_reduce, broadcast_object_list, get_rank, get_world_size
from torch import Tensor

from mmdistill_dense.distillers.maskd.gated_teacher import (
    GatedTap,
    gated_loss,
    only_possible_heads,
    task_loss,
    training_objective,
)
from mmdistill_dense.distillers.maskd.learn_options import LearnOptions
from mmdistill_dense.distillers.maskd.learning_batches import learning_batches
from mmdistill_dense.distillers.maskd.token_files import TOKEN, Values
from mmdistill_dense.utils.random_streams import fork_rng, mix, seed_everything

if TYPE_CHECKING:
    from mmdistill_dense.networks.teacher import FrozenTeacher

PATIENCE = 10  # steps in a row that may be skipped


@dataclass
class Task:
    """What is learned, and where."""

    name: str
    teacher: FrozenTeacher
    taps: Sequence[GatedTap]
    shapes: Mapping[str, torch.Size]
    options: LearnOptions


def learn_tokens(
    task: Task, runner: Any, partial: Mapping[str, Any] | None, save: Callable[[TokenLearner], None]
) -> Values:
    """Learn the tokens of a distiller on the training data of a run; called by all processes of it together.

    Random streams, the run's loader and the teacher (weights, buffers, modes, hooks) are afterwards what they were.
    Hooks with a method ``after_prepare_iter(runner, done, whole)`` are told of every iteration.

    Args:
        task: The teacher, its taps, shapes of the tokens and settings.
        runner: Gives data, preprocessor, seed and log.
        partial: State of an interrupted learning to continue from.
        save: Called with the learner every ``save_interval`` iterations.

    Returns:
        The learned values, equal on all processes.

    Raises:
        ValueError: For a teacher without a training loss.
        RuntimeError: When the loss is not finite ten times in a row; names the iteration and the level.
    """
    network: Any = task.teacher.network
    if not hasattr(network, 'loss'):
        raise ValueError(
            f'distillers.{task.name}: tokens are learned through the training loss of {task.teacher.key}, and '
            f'{type(network).__name__} has none; give learned ones as tokens=.'
        )
    model = getattr(runner.model, 'module', runner.model)
    seeds = [mix(runner.seed, zlib.crc32(task.name.encode()))]
    broadcast_object_list(seeds)  # runs may seed their processes differently; tokens and order of the data are one
    seed = seeds[0]
    origin = {
        'seed': seed,
        'batch_size': runner.train_dataloader.batch_sampler.batch_size,
        'processes': get_world_size(),
    }
    if partial is not None and partial['origin'] != origin:
        runner.logger.warning(
            f'{task.name}: the unfinished tokens belong to {partial["origin"]} and this run has {origin}, which would '
            'not continue to the same values: learning starts anew.'
        )
        partial = None
    learner = TokenLearner(task, seed, next(network.parameters()).device)
    learner.origin = origin
    if partial is not None:
        learner.load_state_dict(partial)
    preprocessor = copy.deepcopy(model.data_preprocessor)  # some keep a state, which is the run's
    report = _Report(task, runner.logger, learner.iteration)
    loader = learning_batches(runner.train_dataloader, seed, learner.iteration)
    with fork_rng(), training_objective(network), torch.enable_grad(), loader as batches:
        while learner.iteration < task.options.max_iters:
            batch = next(batches)
            seed_everything(mix(seed, get_rank(), learner.iteration, 2))
            data = preprocessor(batch, True)
            inputs, samples = task.teacher.renormalised(data['inputs']), data['data_samples']
            report.masks(network, samples)
            told = report.due(learner.iteration)
            labels = copy.deepcopy(samples) if told else None
            step = learner.step(inputs, samples)
            runner.call_hook('after_prepare_iter', done=learner.iteration, whole=task.options.max_iters)
            if told:
                with torch.no_grad():
                    plain = all_reduce_mean(task_loss(network, inputs, labels).detach())
                report.write(learner.iteration, step, float(plain))
            if learner.iteration % task.options.save_interval == 0 and learner.iteration < task.options.max_iters:
                save(learner)
    return learner.detached()


@dataclass
class Step:
    """Means over all processes of what one iteration gave."""

    rate: float
    task: float
    dice: list[float]
    area: list[float]


class TokenLearner:
    """The values, their optimizer and the place in the learning.

    Args:
        task: What is learned.
        seed: Of the initial values.
        device: Where the teacher is.
    """

    def __init__(self, task: Task, seed: int, device: torch.device) -> None:
        self.task = task
        self.values = {n: v.to(device).requires_grad_() for n, v in initial_tokens(task.shapes, seed).items()}
        self.optimizer = task.options.build_optimizer(list(self.values.values()))
        self.iteration = 0
        self.skipped = 0
        self.origin: dict[str, int] = {}  # what the course of the learning depends on besides the fingerprint

    def step(self, inputs: Tensor, data_samples: Any) -> Step:
        """Do one iteration: forward, gradients averaged over the processes, one step of the optimizer."""
        options = self.task.options
        rate = options.rate(self.iteration)
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        loss = gated_loss(self.task.teacher.network, self.task.taps, self.values, inputs, data_samples)
        total = loss.task + options.dice_weight * torch.stack(loss.dice).sum()
        parameters = list(self.values.values())
        gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
        scalars = torch.stack([value.detach().float() for value in (loss.task, *loss.dice, *loss.area)])
        flat = all_reduce_mean(torch.cat([*(gradient.flatten() for gradient in gradients), scalars]))
        *means, scalars = flat.split([*(parameter.numel() for parameter in parameters), len(scalars)])
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.grad = mean.view_as(parameter)
        task, *levels = scalars.tolist()
        count = len(loss.dice)
        step = Step(rate, task, levels[:count], levels[count:])
        self._advance(step, bool(flat.isfinite().all()))
        return step

    def _advance(self, step: Step, finite: bool) -> None:
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped >= PATIENCE:
            raise RuntimeError(
                f'distillers.{self.task.name}: the loss was not finite in {PATIENCE} iterations in a row, the last is '
                f'{self.iteration} ({self._where(step)}). Lower learn.optimizer.lr, or set learn.clip_grad.'
            )
        if finite:
            if self.task.options.clip_grad is not None:
                torch.nn.utils.clip_grad_norm_(self.values.values(), **self.task.options.clip_grad)
            self.optimizer.step()
        self.iteration += 1

    def _where(self, step: Step) -> str:
        bad = {int(name.split('.')[0]) for name, v in self.values.items() if not v.grad.isfinite().all()}  # type: ignore[union-attr]
        bad |= {level for level, dice in enumerate(step.dice) if not math.isfinite(dice)}
        task = 'task loss not finite, ' if not math.isfinite(step.task) else ''
        return f'{task}level {", ".join(map(str, sorted(bad))) or "none"}'

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` continues from, beside the values."""
        place = {'origin': self.origin, 'iteration': self.iteration, 'skipped': self.skipped}
        return {**place, 'optimizer': self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict()`` with its ``values``."""
        with torch.no_grad():
            for name, value in state['values'].items():
                self.values[name].copy_(value)
        self.optimizer.load_state_dict(state['optimizer'])
        self.iteration, self.skipped = state['iteration'], state['skipped']

    def detached(self) -> Values:
        """Return the values as they are now."""
        return {name: value.detach().clone() for name, value in self.values.items()}


def initial_tokens(shapes: Mapping[str, torch.Size], seed: int) -> Values:
    """Draw initial values: tokens N(0, 0.01²), so that every mask is about ½; convolutions N(0, 2 / (k² C_out)); biases
    0."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, shape in shapes.items():
        if name.endswith('bias'):
            values[name] = torch.zeros(shape)
            continue
        deviation = 0.01 if name.endswith(TOKEN) else math.sqrt(2 / (shape[0] * shape[2] * shape[3]))
        values[name] = torch.randn(shape, generator=generator) * deviation
    return values


def all_reduce_mean(value: Tensor) -> Tensor:
    """Return the mean over all processes."""
    all_reduce(value, op='mean')
    return value


class _Report:
    """The lines that a person reads while tokens are learned."""

    def __init__(self, task: Task, logger: Any, start: int) -> None:
        self.task = task
        self.logger = logger
        self.last = (start, time.monotonic())
        self.silent = False

    def masks(self, network: Any, data_samples: Any) -> None:
        """Say once that the mask branch is off."""
        with only_possible_heads(network, data_samples) as off:
            if off and not self.silent:
                self.silent = True
                self.logger.info(
                    f'{self.task.name}: the data hold no instance masks, so the mask branch of {self.task.teacher.key} '
                    'is left out of its loss while tokens are learned (published tokens had it).'
                )

    def due(self, iteration: int) -> bool:
        """Tell whether the iteration that is about to begin ends with a line."""
        return (iteration + 1) % self.task.options.log_interval == 0 or iteration + 1 == self.task.options.max_iters

    def write(self, done: int, step: Step, plain: float) -> None:
        """Write one line, ``done`` iterations being finished."""
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
