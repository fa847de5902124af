"""Compare a distilled training step with the student's own step and the teacher's forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdistill_dense.apps.check.stages import build_student, draw_tokens, load_random, run_length
from mmdistill_dense.apps.inspect.generated_batch import training_batch
from mmdistill_dense.config.resolve import model_of
from mmdistill_dense.distillers.base import Distiller, Losses, Recorded
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller
from mmdistill_dense.engine.loss_guard import clip_unscaled
from mmdistill_dense.model.distill_model import Distilled, distillers_of
from mmdistill_dense.networks.recording import Replay
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.unlabelled.step import unlabelled_of
from mmdistill_dense.utils.files import expand_user
from mmdistill_dense.utils.runner_internals import Network, Sample, Samples, wrappers_of
from mmdistill_dense.weights.strict_load import is_path
from tools.benchmark.section import Failure, Section, machine, table
from tools.benchmark.timing import Timing, Work, interleaved_times, peak_extra_memory

Call = tuple[nn.Module, tuple[Tensor, ...]]
Arguments = tuple[Recorded, Recorded, Samples]

NOISE = 0.1  # of a time, on a machine that others use too
NOTE = (
    'Overhead: distilled / (control + teacher to its last tap). The control is the student alone. Medians (range) of '
    'interleaved turns on a generated batch. Method alone: its forward and backward on the maps of a step; adapters: '
    'its own modules alone. Memory: the peak of a step, without what exists before it (weights, the teacher, the '
    "optimizer's state)."
)


@dataclass(frozen=True)
class Step:
    """A training step of a network, always on the same batch."""

    network: Any
    wrapper: OptimWrapper | OptimWrapperDict
    data: Mapping[str, Any]

    def __call__(self) -> object:
        return self.network.train_step(self.data, self.wrapper)


def make_step(network: Network, config: Config, data: Mapping[str, Any]) -> Step:
    """Return the training step of a network with the optimizer of its config, at learning rate 0."""
    wrapper = build_optim_wrapper(network, config.optim_wrapper)
    main_wrapper, *_ = wrappers = wrappers_of(wrapper)
    for group in (group for optim in wrappers for group in optim.param_groups):
        group['lr'] = 0.0
    for distiller in distillers_of(network).values():
        if distiller.clip_max_norm is not None:
            main_wrapper.optimizer.register_step_pre_hook(partial(_clip, distiller))
    return Step(network, wrapper, data)


def _clip(distiller: Distiller, optimizer: torch.optim.Optimizer, *_: Any) -> None:
    clip_unscaled(distiller, optimizer)  # what a hook returns would replace the optimizer's arguments


@dataclass(frozen=True)
class Steps:
    """The steps of a control and its distilled student; ``inputs`` is the batch (B, 3, H, W) that both see."""

    control: Step
    distilled: Step
    inputs: Tensor

    @property
    def teachers(self) -> list[FrozenTeacher]:
        return list(self.distilled.network.distillation.teachers.values())

    @property
    def batch(self) -> int:
        return len(self.inputs)

    @property
    def size(self) -> tuple[int, int]:
        return self.inputs.shape[2], self.inputs.shape[3]

    @property
    def teacher_weights(self) -> str:
        """The files of the teachers' weights, or ``'random'``."""
        return ', '.join((teacher.receipt and teacher.receipt.file) or 'random' for teacher in self.teachers)


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

    See :func:`prepare_steps` for the works, their weights and the defaults.

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
    # a GPU runs the teacher while the CPU still launches the student's operations
    side_by_side = torch.device(device).type == 'cuda'
    check_whole(times, 'distilled', ['control'] if side_by_side else ['control', 'teacher'])
    return StepCost(
        steps.batch, steps.size, steps.teacher_weights, times['control'], times['teacher'], times['distilled'],
        {name: times[f'{name} alone'] for name in alone}, {name: times[f'{name} adapters'] for name in adapters},
        peak_extra_memory(steps.control, device), peak_extra_memory(steps.distilled, device),
    )  # fmt: skip


def prepare_steps(
    config: Config,
    batch: int | None = None,
    image_size: tuple[int, int] | None = None,
    device: str | torch.device = 'cpu',
) -> Steps:
    """Return the control's and the distilled step on a generated batch, as a runner does them."""
    # random weights of a teacher without its file have batch statistics: the time of the contrast depends on how far
    # features lie apart; the weights of the student are fixed by a learning rate of 0, and tokens are random
    model = model_of(config)
    if not model.get('distillers') or not model.get('teacher'):
        raise ValueError('step benchmark: model has no teacher and distillers to measure')
    scope = config.get('default_scope', 'mmseg')
    init_default_scope(scope)
    if image_size and scope == 'mmseg':  # it pads to its training crop
        model['data_preprocessor'] = {**(model.get('data_preprocessor') or {}), 'size': tuple(image_size)}
    control: Network = build_student({**model, 'distillers': {}, 'inherit': ()})
    distilled: Distilled = build_student(model)
    # one student in both steps: the time of NMS and of sampled RoIs depends on its weights
    distilled.load_state_dict(control.state_dict(), strict=False)
    data = training_batch(control, config, batch or config.train_dataloader.batch_size, image_size)
    control, distilled = control.to(device), distilled.to(device)
    inputs = distilled.data_preprocessor(data, True)['inputs']
    for teacher in distilled.distillation.teachers.values():
        like, file = next(distilled.parameters()), teacher.option.checkpoint
        if file and (not is_path(file) or expand_user(file).is_file()):
            teacher.load(like)
        else:
            load_random(teacher, like, inputs)
    distilled.distillation.enter_run(run_length(config))
    second = unlabelled_of(distilled)
    if second is not None:
        more = training_batch(control, config, second.option.count(len(inputs)), image_size)
        second.batch = {**more, 'data_samples': list(map(_without_labels, more['data_samples']))}
    for distiller in distillers_of(distilled).values():
        if isinstance(distiller, TokenDistiller):
            draw_tokens(distiller)
    _go_where_all_work(distilled)
    return Steps(make_step(control, config, data), make_step(distilled, config, data), inputs)


def _without_labels(sample: Sample) -> Any:
    kind: Any = type(sample)
    bare = kind(metainfo=dict(sample.metainfo))
    if 'gt_instances' in sample:
        bare.gt_instances = InstanceData()
    return bare


def _go_where_all_work(network: Distilled) -> None:
    """Set the iteration to where MasKD's student masks begin, or to 0 if a distiller is off by then."""
    state, distillers = network.distillation.state, distillers_of(network)
    begins = [getattr(distiller, 'student_mask_from', None) or 0 for distiller in distillers.values()]
    for state.iteration in (max(begins), 0):
        off = [name for name, distiller in distillers.items() if distiller.weight() == 0]
        if not off:
            return
    raise ValueError(
        f'step benchmark: distillers.{off[0]} is off at the start of the run by its schedule, so a step would not show '
        'its cost: give it another schedule, or leave it out.'
    )


def check_whole(times: Mapping[str, Timing], whole: str, parts: Sequence[str]) -> None:
    """Raise RuntimeError if a whole took less time in every turn than its parts, by more than noise."""
    least, usual = sum(times[part].low for part in parts), sum(times[part].median for part in parts)
    repeated = times[whole].low < times[whole].high
    if repeated and times[whole].high < least and times[whole].median < (1 - NOISE) * usual:
        raise RuntimeError(
            f'The {whole} step took {times[whole]} s. Its parts alone ({" and ".join(parts)}) took {usual:.3g} s. A '
            f'ratio of {times[whole].median / usual:.3f} is not a measurement: the step did less than a step of '
            'training does, or the machine was disturbed. Measure again.'
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
        return Replay(found.network, {name: _leaf(value) for name, value in found.arguments.items()})
    return [_leaf(x) for x in found]


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def _leaves(found: Sequence[Tensor]) -> Iterator[Tensor]:
    values: list[Any] = (
        [*found.arguments.values(), *found.network.parameters()] if isinstance(found, Replay) else [*found]
    )
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


def as_markdown(costs: Mapping[str, StepCost | Failure]) -> str:
    """Return one table of several methods, a row each."""
    head = ['method', 'control s', 'teacher s', 'distilled s', '**overhead**', 'without adapters', 'method alone s']
    rows = [_cells(name, cost) for name, cost in costs.items()]
    return f'{table([*head, "control MiB", "extra MiB"], rows)}\n\n{NOTE}'


def _cells(name: str, cost: StepCost | Failure) -> list[str]:
    if isinstance(cost, dict):
        return [name, cost['error'], *'–' * 7]
    alone = ', '.join(f'{timing.median:.3g}' for timing in cost.alone.values())
    times = [str(cost.control), str(cost.teacher), str(cost.distilled)]
    plain, whole = cost.control_memory / 2**20, cost.distilled_memory / 2**20
    ratios = [f'**{cost.overhead:.3f}**', f'{cost.without_adapters:.3f}']
    return [name, *times, *ratios, alone, f'{plain:.0f}', f'{whole - plain:+.0f}']


def section(costs: Mapping[str, StepCost | Failure], name: str, device: str, command: str) -> Section:
    """Return the measurements of several methods on one pair, or their errors, as a section."""
    figures, title = dict[str, Any](costs), f'Step {name}'
    for key, cost in costs.items():
        if isinstance(cost, StepCost):
            title = f'Step {name}, {cost.batch} of {cost.size[0]}x{cost.size[1]}'
            figures[key] = {**asdict(cost), 'overhead': cost.overhead, 'without_adapters': cost.without_adapters}
    return Section(f'step_{name}', title, as_markdown(costs), figures, machine(device), command)
