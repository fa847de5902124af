"""What a distilled training step costs beside the student's own step and the teacher's forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmdistill_dense.analysis.timing import Timing, Work, check_whole, interleaved_times, peak_extra_memory
from mmdistill_dense.analysis.training_step import Step, Steps, prepare_steps
from mmdistill_dense.networks.teacher import FrozenTeacher
from tools.benchmark.section import Chart, Section, machine, table

Call = tuple[nn.Module, tuple[Tensor, ...]]
Arguments = tuple[Any, Any, Any]

STREAM = 'teacher on its own stream'
NOTE = (
    'Medians (range) of turns with everything interleaved, on a generated batch. A method alone: its forward and '
    'backward on the maps of a step; adapters: its own modules, once more alone. Memory: what a step holds at its peak '
    'beyond what stands before it (weights, the teacher, optimizer state).'
)


@dataclass(frozen=True)
class StepCost:
    """Seconds of each part; ``features``: the teachers' backbones and necks; ``distillers``: forward and backward of
    each distiller on the maps of a step; ``adapters``: of its own modules alone; ``memory``: bytes at the peak of a
    step; ``streamed``: the distilled step with the teacher on a second CUDA stream."""

    batch: int
    size: tuple[int, int]
    teacher_weights: str
    control: Timing
    teacher: Timing
    features: Timing
    distilled: Timing
    adapters: dict[str, Timing]
    distillers: dict[str, Timing] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    streamed: Timing | None = None

    @property
    def whole_ratio(self) -> float:
        """Distilled step / (control step + teacher forward), of the medians."""
        return self.distilled.median / (self.control.median + self.teacher.median)

    @property
    def features_ratio(self) -> float:
        """Distilled step / (control step + the teachers' backbones and necks), of the medians."""
        return self.distilled.median / (self.control.median + self.features.median)

    @property
    def ratio(self) -> float:
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

    What is run, and on which weights: :func:`~mmdistill_dense.analysis.training_step.prepare_steps`.

    Args:
        config: A whole config whose model is a ``DistillModel``.
        batch: Images. Defaults to the config's.
        repeats: Timed turns.
        image_size: Height and width. Defaults to the crop, or the largest size, that the config trains on.
        device: ``'cpu'`` or ``'cuda'``.

    Raises:
        ValueError: As ``prepare_steps``.
        RuntimeError: For a step that took less than its parts.
    """
    steps = prepare_steps(config, batch, image_size, device)
    distillers, adapters = _parts(steps.distilled)
    works: dict[str, Work] = {'control': steps.control, 'distilled': steps.distilled}
    works['teacher'] = lambda: [teacher(steps.inputs) for teacher in steps.teachers]
    if any(_taps_a_head(teacher) for teacher in steps.teachers):  # else its last tap is the end of them
        works['features'] = lambda: [_features(teacher, steps.inputs) for teacher in steps.teachers]
    if torch.device(device).type == 'cuda':
        works['streamed'] = lambda: _streamed(steps)
    times = interleaved_times({**works, **distillers, **adapters}, repeats, device)
    side_by_side = any(teacher.acceleration.stream for teacher in steps.teachers)
    check_whole(times, 'distilled', ['control'] if side_by_side else ['control', 'teacher'])
    return StepCost(
        steps.batch,
        steps.size,
        steps.teacher_weights,
        times['control'],
        times['teacher'],
        times.get('features', times['teacher']),
        times['distilled'],
        {name: times[name] for name in adapters},
        {name: times[name] for name in distillers},
        {name: peak_extra_memory(works[name], device) for name in ('control', 'distilled')},
        times.get('streamed'),
    )


def _taps_a_head(teacher: FrozenTeacher) -> bool:
    return any(tap.path.split('.')[0] not in ('backbone', 'neck') for tap in teacher.taps)


@torch.no_grad()
def _features(teacher: FrozenTeacher, inputs: Tensor) -> object:
    network: Any = teacher.network
    with teacher.acceleration.running(teacher.renormalised(inputs)) as prepared:
        return network.extract_feat(prepared)


def _streamed(steps: Steps) -> object:
    usual = [teacher.acceleration for teacher in steps.teachers]
    for teacher in steps.teachers:
        teacher.acceleration = replace(teacher.acceleration, stream=True)
    try:
        return steps.distilled()
    finally:
        for teacher, acceleration in zip(steps.teachers, usual, strict=True):
            teacher.acceleration = acceleration


def _parts(step: Step) -> tuple[dict[str, Work], dict[str, Work]]:
    """Record in one step what each distiller gets, and each of its modules, to run them again alone."""
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
    distillers = {f'{name} alone': _again(step.network.distillers[name], given[name], context) for name in given}
    adapters = {f'{name} adapters': _replay(recorded, context) for name, recorded in calls.items() if recorded}
    return distillers, adapters


@contextlib.contextmanager
def _listening(distiller: Any, note: Callable[[Arguments], None]) -> Iterator[None]:
    step = distiller.step

    def listen(*args: Any) -> Any:
        student, teacher, samples = args
        note((_leaves(student), dict(teacher), samples))
        return step(*args)

    distiller.step = listen
    try:
        yield
    finally:
        del distiller.step


def _leaves(recorded: Mapping[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    return {tap: [x.detach().requires_grad_(x.requires_grad) for x in found] for tap, found in recorded.items()}


def _again(distiller: Any, given: Arguments, context: Callable[[], Any]) -> Work:
    leaves = [x for found in given[0].values() for x in found if x.requires_grad]
    leaves += [parameter for parameter in distiller.parameters() if parameter.requires_grad]

    def work() -> None:
        with context():
            losses = [value for name, value in distiller.step(*given).items() if 'loss' in name]
        torch.autograd.grad(torch.stack(losses).sum(), leaves, allow_unused=True)

    return work


def _record(calls: list[Call], module: nn.Module, args: tuple[Tensor, ...]) -> None:
    if any(True for _ in module.parameters()):
        calls.append((module, args))


def _replay(recorded: list[Call], context: Callable[[], Any]) -> Work:
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


def as_markdown(cost: StepCost) -> str:
    """Return the table of one measurement."""
    rows = {
        'control step (student forward, backward, optimizer)': cost.control,
        'teacher forward to its last tap': cost.teacher,
        'teacher backbone and neck': cost.features,
        'distilled step': cost.distilled,
        **({f'distilled step, {STREAM}': cost.streamed} if cost.streamed else {}),
        **{f'{name}, forward and backward': timing for name, timing in cost.distillers.items()},
        **{f'{name}, forward and backward alone': timing for name, timing in cost.adapters.items()},
    }
    lines = [[name, str(timing)] for name, timing in rows.items()]
    lines.append(['**distilled / (control + teacher)**', f'**{cost.whole_ratio:.3f}**'])
    lines.append(['**distilled / (control + teacher backbone and neck)**', f'**{cost.features_ratio:.3f}**'])
    lines.append(['**(distilled - adapters) / (control + teacher)**', f'**{cost.ratio:.3f}**'])
    lines += [[f'memory at the peak of the {name} step', f'{size / 2**20:.0f} MiB'] for name, size in _memory(cost)]
    title = f'batch {cost.batch} of {cost.size[0]}x{cost.size[1]}, teacher weights: {cost.teacher_weights}'
    return table([title, 's'], lines)


def _memory(cost: StepCost) -> list[tuple[str, int]]:
    return [('control' if name == 'control' else 'distilled', size) for name, size in cost.memory.items()]


def overview(costs: Mapping[str, StepCost]) -> str:
    """Return one table of several methods, a row each."""
    head = ['method', 'control s', 'teacher s', 'distilled s', '**overhead**', 'without adapters', 'method alone s']
    head += ['control MiB', 'extra MiB']
    rows = []
    for name, cost in costs.items():
        alone = ', '.join(f'{timing.median:.3g}' for timing in cost.distillers.values())
        plain, whole = (cost.memory[key] / 2**20 for key in ('control', 'distilled'))
        cells = [name, str(cost.control), str(cost.teacher), str(cost.distilled), f'**{cost.whole_ratio:.3f}**']
        rows.append([*cells, f'{cost.ratio:.3f}', alone, f'{plain:.0f}', f'{whole - plain:+.0f}'])
    return f'{table(head, rows)}\n\nOverhead: distilled / (control + teacher to its last tap). {NOTE}'


def section(costs: Mapping[str, StepCost], name: str, device: str, command: str) -> Section:
    """Return measurements of several methods on one pair as a part of the benchmark."""
    first = next(iter(costs.values()))
    title = f'Step {name}, {first.batch} of {first.size[0]}x{first.size[1]}'
    ratios = {key: {'ratio': cost.ratio, 'whole_ratio': cost.whole_ratio} for key, cost in costs.items()}
    figures = {key: {**asdict(cost), **ratios[key]} for key, cost in costs.items()}
    chart = Chart('distilled / (control + teacher)', {k: (c.whole_ratio,) * 3 for k, c in costs.items()}, mark=1.0)
    return Section(f'step_{name}', title, overview(costs), figures, machine(device), command, chart)
