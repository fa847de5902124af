"""What a distilled training step costs beside the student's own step and the teacher's forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmdistill_dense.analysis.measure import Timing, interleaved_times
from mmdistill_dense.analysis.training_step import prepare_steps
from mmdistill_dense.teacher import FrozenTeacher

Work = Callable[[], object]
Call = tuple[nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True)
class StepCost:
    """Seconds of each part; ``features``: the teachers' backbones and necks; ``adapters``: forward and backward of each
    distiller's own modules alone."""

    batch: int
    size: tuple[int, int]
    teacher_weights: str
    control: Timing
    teacher: Timing
    features: Timing
    distilled: Timing
    adapters: dict[str, Timing]

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
    config: Config, batch: int | None = None, repeats: int = 5, image_size: tuple[int, int] | None = None
) -> StepCost:
    """Time, in turns, the control's step, the teacher's forward pass to its last tap, and the distilled step.

    What is run, and on which weights: :func:`~mmdistill_dense.analysis.training_step.prepare_steps`.

    Args:
        config: A whole config whose model is a ``DistillModel``.
        batch: Images. Defaults to the config's.
        repeats: Timed turns.
        image_size: Height and width. Defaults to the crop, or the largest size, that the config trains on.

    Raises:
        ValueError: As ``prepare_steps``.
    """
    steps = prepare_steps(config, batch, image_size)
    adapters = _adapter_works(steps.distilled.network, steps.distilled)
    forwards: dict[str, Work] = {
        'teacher': lambda: [teacher(steps.inputs) for teacher in steps.teachers],
        'features': lambda: [_features(teacher, steps.inputs) for teacher in steps.teachers],
    }
    works: dict[str, Work] = {'control': steps.control, 'distilled': steps.distilled, **forwards, **adapters}
    times = interleaved_times(works, repeats)
    parts = {name: times[name] for name in adapters}
    control, teacher, features, whole = (times[n] for n in ('control', 'teacher', 'features', 'distilled'))
    return StepCost(steps.batch, steps.size, steps.teacher_weights, control, teacher, features, whole, parts)


@torch.no_grad()
def _features(teacher: FrozenTeacher, inputs: Tensor) -> object:
    network: Any = teacher.network
    return network.extract_feat(teacher.renormalised(inputs))


def _adapter_works(network: Any, step: Work) -> dict[str, Work]:
    """Record the inputs of each distiller's own modules in one step, to run them again alone."""
    calls: dict[str, list[Call]] = {name: [] for name in network.distillers}
    handles = []
    for name, distiller in network.distillers.items():
        for module in [*getattr(distiller, 'aligns', []), *getattr(distiller, 'parts', [])]:
            handles.append(module.register_forward_pre_hook(partial(_record, calls[name])))
    step()
    for handle in handles:
        handle.remove()
    return {f'{name} adapters': _replay(recorded) for name, recorded in calls.items() if recorded}


def _record(calls: list[Call], module: nn.Module, args: tuple[Tensor, ...]) -> None:
    if any(True for _ in module.parameters()):
        calls.append((module, args))


def _replay(recorded: list[Call]) -> Work:
    inputs = [[arg.detach().requires_grad_(arg.is_floating_point()) for arg in args] for _, args in recorded]
    with torch.no_grad():
        upstream = [torch.ones_like(module(*args)) for (module, _), args in zip(recorded, inputs, strict=True)]

    def work() -> None:
        for (module, _), args, grad in zip(recorded, inputs, upstream, strict=True):
            leaves = [*module.parameters(), *(arg for arg in args if arg.requires_grad)]
            torch.autograd.grad(module(*args), leaves, grad)

    return work


def as_markdown(cost: StepCost) -> str:
    """Return the table of one measurement."""
    rows = {
        'control step (student forward, backward, optimizer)': cost.control,
        'teacher forward to its last tap': cost.teacher,
        'teacher backbone and neck': cost.features,
        'distilled step': cost.distilled,
        **{f'{name}, forward and backward alone': timing for name, timing in cost.adapters.items()},
    }
    title = f'batch {cost.batch} of {cost.size[0]}x{cost.size[1]}, teacher weights: {cost.teacher_weights}'
    lines = [f'| {title} | s |', '|---|---|']
    lines += [f'| {name} | {timing} |' for name, timing in rows.items()]
    lines.append(f'| **distilled / (control + teacher)** | **{cost.whole_ratio:.3f}** |')
    lines.append(f'| **distilled / (control + teacher backbone and neck)** | **{cost.features_ratio:.3f}** |')
    lines.append(f'| **(distilled - adapters) / (control + teacher)** | **{cost.ratio:.3f}** |')
    return '\n'.join(lines)
