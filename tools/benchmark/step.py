"""Compare a distilled training step with the student's own step and the teacher's forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmdistill_dense.apps.inspect.step_cost import (
    Step,
    Timing,
    Work,
    check_whole,
    interleaved_times,
    peak_extra_memory,
    prepare_steps,
)
from mmdistill_dense.distillers.base import Distiller, Losses, Recorded
from mmdistill_dense.networks.taps import Replay
from mmdistill_dense.utils.runner_internals import Samples
from tools.benchmark.section import Section, machine, table

Call = tuple[nn.Module, tuple[Tensor, ...]]
Arguments = tuple[Recorded, Recorded, Samples]

NOTE = (
    'Overhead: distilled / (control + teacher to its last tap). The control is the student alone. Medians (range) of '
    'interleaved turns on a generated batch. Method alone: its forward and backward on the maps of a step; adapters: '
    'its own modules alone. Memory: the peak of a step, without what exists before it (weights, the teacher, the '
    "optimizer's state)."
)


@dataclass(frozen=True)
class StepCost:
    """Seconds of each part, and bytes at the peak of both steps.

    Attributes:
        alone: Forward and backward of each distiller on the maps of a step.
        adapters: The same of its own modules, for the distillers that have some.
    """

    batch: int
    size: tuple[int, int]
    teacher_weights: str
    control: Timing
    teacher: Timing
    distilled: Timing
    alone: dict[str, Timing]
    adapters: dict[str, Timing]
    control_memory: int
    distilled_memory: int

    @property
    def overhead(self) -> float:
        """Distilled step / (control step + teacher forward), of the medians."""
        return self.distilled.median / (self.control.median + self.teacher.median)

    @property
    def without_adapters(self) -> float:
        """(distilled step - adapters) / (control step + teacher forward), of the medians."""
        adapters = sum(timing.median for timing in self.adapters.values())
        return (self.distilled.median - adapters) / (self.control.median + self.teacher.median)


def measure_step(
    config: Config,
    batch: int | None = None,
    repeats: int = 5,
    image_size: tuple[int, int] | None = None,
    device: str = 'cpu',
) -> StepCost:
    """Time, in turns, the control's step, the teacher's forward pass to its last tap, the distilled step and its parts.

    See :func:`~mmdistill_dense.apps.inspect.step_cost.prepare_steps` for the works, their weights and the defaults.

    Raises:
        ValueError: As ``prepare_steps``.
        RuntimeError: If a step took less time than its parts.
    """
    steps = prepare_steps(config, batch, image_size, device)
    alone, adapters = _parts(steps.distilled)
    works: dict[str, Work] = {'control': steps.control, 'distilled': steps.distilled}
    works['teacher'] = lambda: [teacher(steps.inputs) for teacher in steps.teachers]
    parts = {f'{name} alone': work for name, work in alone.items()}
    parts |= {f'{name} adapters': work for name, work in adapters.items()}
    times = interleaved_times({**works, **parts}, repeats, device)
    check_whole(times, 'distilled', ['control', 'teacher'])
    return StepCost(
        steps.batch,
        steps.size,
        steps.teacher_weights,
        times['control'],
        times['teacher'],
        times['distilled'],
        {name: times[f'{name} alone'] for name in alone},
        {name: times[f'{name} adapters'] for name in adapters},
        peak_extra_memory(steps.control, device),
        peak_extra_memory(steps.distilled, device),
    )


def _parts(step: Step) -> tuple[dict[str, Work], dict[str, Work]]:
    """Record the arguments of each distiller and its modules in one step, to run them again alone."""
    given: dict[str, Arguments] = {}
    calls: dict[str, list[Call]] = {name: [] for name in step.network.distillers}
    with contextlib.ExitStack() as stack:
        for name, distiller in step.network.distillers.items():
            stack.enter_context(_listening(distiller, partial(given.__setitem__, name)))
            for module in [*getattr(distiller, 'aligns', []), *getattr(distiller, 'parts', [])]:
                handle = module.register_forward_pre_hook(partial(_record, calls[name]))
                stack.callback(handle.remove)
        step()
    context = partial(step.wrapper.optim_context, step.network)  # the autocast of the run
    alone = {name: _again(step.network.distillers[name], given[name], context) for name in given}
    adapters = {name: _replay(recorded, context) for name, recorded in calls.items() if recorded}
    return alone, adapters


@contextlib.contextmanager
def _listening(distiller: Any, note: Callable[[Arguments], None]) -> Iterator[None]:
    forward = distiller.forward

    def listen(student: Recorded, teacher: Recorded, samples: Samples) -> Losses:
        note((_detached(student), dict(teacher), samples))
        return forward(student, teacher, samples)

    distiller.forward = listen
    try:
        yield
    finally:
        del distiller.forward


def _detached(recorded: Mapping[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    return {tap: _cut_off(found) for tap, found in recorded.items()}


def _cut_off(found: list[Tensor]) -> list[Tensor]:
    if isinstance(found, Replay):
        return Replay(found.network, {name: _leaf(value) for name, value in found.kept.items()})
    return [_leaf(x) for x in found]


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def _leaves(found: Sequence[Tensor]) -> Iterator[Tensor]:
    values: list[Any] = [*found.kept.values(), *found.network.parameters()] if isinstance(found, Replay) else [*found]
    yield from (value for value in values if isinstance(value, Tensor) and value.requires_grad)


def _again(
    distiller: Distiller, given: Arguments, context: Callable[[], contextlib.AbstractContextManager[None]]
) -> Work:
    leaves = [leaf for found in given[0].values() for leaf in _leaves(found)]
    leaves += [parameter for parameter in distiller.parameters() if parameter.requires_grad]

    def work() -> None:
        with context():
            losses = [value for name, value in distiller.step(*given).items() if 'loss' in name]
        torch.autograd.grad(torch.stack(losses).sum(), leaves, allow_unused=True)

    return work


def _record(calls: list[Call], module: nn.Module, args: tuple[Tensor, ...]) -> None:
    if any(True for _ in module.parameters()):
        calls.append((module, args))


def _replay(recorded: list[Call], context: Callable[[], contextlib.AbstractContextManager[None]]) -> Work:
    inputs = [[arg.detach().requires_grad_(arg.is_floating_point()) for arg in args] for _, args in recorded]
    with torch.no_grad(), context():
        upstream = [torch.ones_like(module(*args)) for (module, _), args in zip(recorded, inputs, strict=True)]

    def work() -> None:
        for (module, _), args, grad in zip(recorded, inputs, upstream, strict=True):
            leaves = [*module.parameters(), *(arg for arg in args if arg.requires_grad)]
            with context():
                output = module(*args)
            torch.autograd.grad(output, leaves, grad)

    return work


def as_markdown(costs: Mapping[str, StepCost]) -> str:
    """Return one table of several methods, a row each."""
    head = ['method', 'control s', 'teacher s', 'distilled s', '**overhead**', 'without adapters', 'method alone s']
    rows = [_cells(name, cost) for name, cost in costs.items()]
    return f'{table([*head, "control MiB", "extra MiB"], rows)}\n\n{NOTE}'


def _cells(name: str, cost: StepCost) -> list[str]:
    alone = ', '.join(f'{timing.median:.3g}' for timing in cost.alone.values())
    times = [str(cost.control), str(cost.teacher), str(cost.distilled)]
    plain, whole = cost.control_memory / 2**20, cost.distilled_memory / 2**20
    ratios = [f'**{cost.overhead:.3f}**', f'{cost.without_adapters:.3f}']
    return [name, *times, *ratios, alone, f'{plain:.0f}', f'{whole - plain:+.0f}']


def section(costs: Mapping[str, StepCost], name: str, device: str, command: str) -> Section:
    """Return the measurements of several methods on one pair as a section."""
    first = next(iter(costs.values()))
    title = f'Step {name}, {first.batch} of {first.size[0]}x{first.size[1]}'
    figures = {
        key: {**asdict(cost), 'overhead': cost.overhead, 'without_adapters': cost.without_adapters}
        for key, cost in costs.items()
    }
    return Section(f'step_{name}', title, as_markdown(costs), figures, machine(device), command)
