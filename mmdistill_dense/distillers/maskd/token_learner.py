"""One step of token learning: the teacher's loss on masked maps plus Dice, differentiated only for the tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmdistill_dense.distillers.maskd.gated_teacher import GatedTap, gated_loss
from mmdistill_dense.distillers.maskd.learn_options import LearnOptions
from mmdistill_dense.distillers.maskd.token_files import TOKEN, Values
from mmdistill_dense.utils.distributed import mean_over_ranks
from mmdistill_dense.utils.protocols import Samples

if TYPE_CHECKING:
    from mmdistill_dense.networks.teacher import FrozenTeacher

PATIENCE = 10  # steps in a row that may be skipped


@dataclass
class Task:
    """What is to be learned, and where."""

    name: str
    teacher: FrozenTeacher
    taps: Sequence[GatedTap]
    shapes: Mapping[str, torch.Size]
    options: LearnOptions


@dataclass
class Step:
    """Learning rate and losses of one iteration, means over all processes."""

    rate: float
    task: float
    dice: list[float]
    area: list[float]


class TokenLearner:
    """The values, their optimizer and the progress of the learning.

    Args:
        task: What is learned.
        seed: Seed of the initial values.
        device: Device of the teacher.
    """

    def __init__(self, task: Task, seed: int, device: torch.device) -> None:
        self.task = task
        self.values = {n: v.to(device).requires_grad_() for n, v in initial_tokens(task.shapes, seed).items()}
        self.optimizer = task.options.build_optimizer(list(self.values.values()))
        self.iteration = 0
        self.skipped = 0
        self.origin = {'seed': seed}  # what the values depend on besides the fingerprint

    def step(self, inputs: Tensor, data_samples: Samples) -> Step:
        """Do one iteration: forward, gradients averaged over the processes, one step of the optimizer."""
        options = self.task.options
        rate = options.rate(self.iteration)
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        network: Any = self.task.teacher.network
        loss = gated_loss(network, self.task.taps, self.values, inputs, data_samples)
        total = loss.task + options.dice_weight * torch.stack(loss.dice).sum()
        parameters = list(self.values.values())
        gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
        scalars = torch.stack([value.detach().float() for value in (loss.task, *loss.dice, *loss.area)])
        flat = mean_over_ranks(torch.cat([*(gradient.flatten() for gradient in gradients), scalars]))
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
                f'{self.iteration} ({self._where(step)}). Lower learn.optimizer.lr or set learn.clip_grad.'
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
        """Return the state for :meth:`load_state_dict`, without the values."""
        place = {'origin': self.origin, 'iteration': self.iteration, 'skipped': self.skipped}
        return {**place, 'optimizer': self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict()`` with the ``values`` added."""
        with torch.no_grad():
            for name, value in state['values'].items():
                self.values[name].copy_(value)
        self.optimizer.load_state_dict(state['optimizer'])
        self.iteration, self.skipped = state['iteration'], state['skipped']

    def detached(self) -> Values:
        """Return the values as they are now."""
        return {name: value.detach().clone() for name, value in self.values.items()}


def initial_tokens(shapes: Mapping[str, torch.Size], seed: int) -> Values:
    """Draw initial values: tokens N(0, 0.01²), for masks of about ½; convolutions N(0, 2 / (k² C_out)); biases 0."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, shape in shapes.items():
        if name.endswith('bias'):
            values[name] = torch.zeros(shape)
            continue
        deviation = 0.01 if name.endswith(TOKEN) else math.sqrt(2 / (shape[0] * shape[2] * shape[3]))
        values[name] = torch.randn(shape, generator=generator) * deviation
    return values
