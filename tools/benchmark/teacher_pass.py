"""Measure a frozen teacher's forward pass, plain and with each acceleration, and the change of its taps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from mmengine.registry import init_default_scope
from torch import Tensor

from mmdistill_dense.apps.inspect.step_cost import (
    Timing,
    Work,
    build_student,
    interleaved_times,
    load_teacher,
    training_batch,
)
from mmdistill_dense.config.resolve import is_single_teacher
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.utils.runner_internals import Samples
from tools.benchmark.section import Section, machine, table

Size = tuple[int, int]
Model = Mapping[str, Any]

FULL = 'plain eval forward: backbone, neck, heads'
EARLY = 'up to the last tap'
OPTIONS: dict[str, dict[str, Any]] = {
    'channels_last': {'channels_last': True},
    'bfloat16': {'dtype': 'bfloat16'},
    'channels_last, bfloat16': {'channels_last': True, 'dtype': 'bfloat16'},
}
NOTE = (
    'Every row except the first stops after the last tap. Error: largest over the taps of max |difference| / '
    f'max |value|, against "{EARLY}". Random weights with batch statistics unless a file is named.'
)


@dataclass(frozen=True)
class Row:
    """Seconds of one forward pass, and the largest relative error of its taps."""

    name: str
    time: Timing
    error: float | None


@dataclass(frozen=True)
class TeacherCost:
    """One teacher at one size; ``rows`` begin with the plain forward."""

    title: str
    taps: list[str]
    batch: int
    size: Size
    rows: list[Row]

    def faster(self, row: Row) -> float:
        """Return how many times faster a row is than the plain forward pass, by medians."""
        return self.rows[0].time.median / row.time.median


def tapped(cfg: str, taps: Sequence[str]) -> dict[str, Any]:
    """Return a model whose teacher is a network of the zoo with the given taps."""
    return {
        'type': 'mmdistill_dense.DistillModel',
        'student': {'cfg': cfg},
        'teacher': {'cfg': cfg},
        'distillers': {'taps': {'type': 'FitNet', 'student_tap': list(taps)}},
    }


def measure_teachers(
    model: Model,
    batch: int,
    size: Size,
    repeats: int = 3,
    device: str = 'cpu',
    scope: str = 'mmseg',
) -> dict[str, TeacherCost]:
    """Time the plain forward, the early exit and each acceleration in turns, on copies of each teacher.

    ``model`` are the options of a ``DistillModel``, whose distillers give the taps. The ``repeats`` timed turns follow
    an untimed one that converts.
    """
    init_default_scope(scope)
    inputs = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    options: dict[str, Model] = {EARLY: {}, **OPTIONS}
    built = {name: _teachers(model, option) for name, option in options.items()}
    return {
        key: _measure({name: teachers[key] for name, teachers in built.items()}, inputs, repeats)
        for key in built[EARLY]
    }


def _teachers(model: Model, accelerate: Mapping[str, Any]) -> dict[str, FrozenTeacher]:
    option = model['teacher']
    if is_single_teacher(option):
        option = {**option, 'accelerate': accelerate}
    else:
        option = {name: {**one, 'accelerate': accelerate} for name, one in option.items()}
    return build_student({**model, 'teacher': option, 'inherit': ()}).distillation.teachers


def _measure(teachers: Mapping[str, FrozenTeacher], inputs: Tensor, repeats: int) -> TeacherCost:
    plain = teachers[EARLY]
    for teacher in teachers.values():  # all with the same weights, even if random
        load_teacher(teacher, inputs, inputs)
        assert teacher.network is not None and plain.network is not None
        teacher.network.load_state_dict(plain.network.state_dict())
    batch, size = len(inputs), (inputs.shape[2], inputs.shape[3])
    expected = plain(inputs)
    errors = {name: relative_error(teacher(inputs), expected) for name, teacher in teachers.items()}
    works: dict[str, Work] = {FULL: partial(_whole, plain, inputs, _samples(plain, batch, size))}
    works |= {name: partial(teacher, inputs) for name, teacher in teachers.items()}
    times = interleaved_times(works, repeats, inputs.device)
    rows = [Row(name, timing, errors.get(name)) for name, timing in times.items()]
    title = f'{plain.config.source or type(plain.network).__name__}'
    return TeacherCost(title, [str(tap) for tap in plain.taps], batch, size, rows)


@torch.no_grad()
def _whole(teacher: FrozenTeacher, inputs: Tensor, samples: Samples | None) -> object:
    assert teacher.network is not None
    return teacher.network(inputs, samples) if samples else teacher.network(inputs)


def _samples(teacher: FrozenTeacher, batch: int, size: Size) -> Samples | None:
    try:
        return training_batch(teacher.network, {}, batch, size)['data_samples']
    except ValueError:  # neither segments nor detects
        return None


def relative_error(found: Mapping[str, Sequence[Tensor]], expected: Mapping[str, Sequence[Tensor]]) -> float:
    """Return the largest max |difference| / max |value| of any tap's tensor."""
    pairs = [(a, b) for name in found for a, b in zip(found[name], expected[name], strict=True)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def as_markdown(cost: TeacherCost) -> str:
    """Return the table of one teacher."""
    head = [f'{cost.batch} of {cost.size[0]}x{cost.size[1]}, taps {", ".join(cost.taps)}', 's', 'faster', 'error']
    errors = ['' if row.error is None else f'{row.error:.1e}' for row in cost.rows]
    rows = [
        [row.name, str(row.time), f'**{cost.faster(row):.2f}x**', error]
        for row, error in zip(cost.rows, errors, strict=True)
    ]
    return f'{table(head, rows)}\n\n{NOTE}'


def section(cost: TeacherCost, name: str, device: str, command: str) -> Section:
    """Return the measurement as a section."""
    figures = {**asdict(cost), 'faster': {row.name: cost.faster(row) for row in cost.rows}}
    return Section(f'teacher_{name}', f'Teacher {cost.title}', as_markdown(cost), figures, machine(device), command)
