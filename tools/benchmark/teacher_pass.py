"""What a frozen teacher's forward pass costs, plain and with each acceleration, and how far its taps move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from torch import Tensor, nn

from mmdistill_dense.analysis.batches import training_batch
from mmdistill_dense.analysis.timing import Timing, Work, interleaved_times
from mmdistill_dense.analysis.training_step import load_teacher
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.model.build import build_distillers, build_teachers, distiller_options
from mmdistill_dense.networks.acceleration import Acceleration
from mmdistill_dense.networks.modes import in_training
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import trace_pair
from tools.benchmark.section import Chart, Section, machine, table

Size = tuple[int, int]

FULL = 'plain eval forward: backbone, neck, heads'
EARLY = 'up to the last tap'
OPTIONS = {
    'fold_bn': Acceleration(),
    'channels_last': Acceleration(fold_bn=False, channels_last=True),
    'bfloat16': Acceleration(fold_bn=False, dtype='bfloat16'),
    'fold_bn, channels_last': Acceleration(channels_last=True),
    'fold_bn, bfloat16': Acceleration(dtype='bfloat16'),
    'fold_bn, channels_last, bfloat16': Acceleration(channels_last=True, dtype='bfloat16'),
}
COMPILED = {
    'fold_bn, compile': Acceleration(compile=True),
    'fold_bn, channels_last, compile': Acceleration(channels_last=True, compile=True),
}
NOTE = (
    'Error: largest over the taps of max |difference| / max |value|, against the plain forward. Each row but the first '
    'stops behind the last tap. Random weights with batch statistics unless a file is named.'
)


@dataclass(frozen=True)
class Row:
    """Seconds of one forward pass, and the largest relative error of its taps."""

    name: str
    time: Timing
    error: float


@dataclass(frozen=True)
class TeacherCost:
    """One teacher at one size; ``rows`` begin with the plain forward."""

    title: str
    taps: list[str]
    batch: int
    size: Size
    rows: list[Row]

    def faster(self, row: Row) -> float:
        """How many times faster a row is than the plain forward, of the medians."""
        return self.rows[0].time.median / row.time.median


def teachers_of(config: Config) -> dict[str, FrozenTeacher]:
    """Return the teachers of a config whose model is a ``DistillModel``, with the taps that its distillers ask for."""
    student = load_model(config.model.student, 'model.student')
    init_default_scope(config.get('default_scope', 'mmseg'))
    parts = build_distillers(distiller_options(config.model.get('distillers') or {}), student.scope)
    return build_teachers(config.model.get('teacher'), parts, [])


def measure_teacher(
    make: Any, batch: int, size: Size, repeats: int = 3, device: str = 'cpu', compiled: bool = False
) -> TeacherCost:
    """Time the plain forward, the early exit and each acceleration in turns, on copies of one network.

    Args:
        make: Returns a new :class:`FrozenTeacher` with its taps.
        batch: Pictures.
        size: Their height and width.
        repeats: Timed turns, after one that is not: it folds, converts and compiles.
        device: Where it runs.
        compiled: Compile too, which takes minutes on a CPU.
    """
    plain = _ready(make(), Acceleration(fold_bn=False), size)
    inputs = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    load_teacher(plain, inputs, inputs)
    assert plain.network is not None
    state = plain.network.state_dict()
    teachers = {EARLY: plain}
    for name, acceleration in {**OPTIONS, **(COMPILED if compiled else {})}.items():
        teachers[name] = _copy(make(), plain, acceleration, state, inputs)
    full = partial(_whole, plain, inputs, _samples(plain, batch, size))
    expected = full()
    errors = {name: relative_error(teacher(inputs), expected) for name, teacher in teachers.items()}
    works: dict[str, Work] = {name: partial(teacher, inputs) for name, teacher in teachers.items()}
    times = interleaved_times({FULL: full, **works}, repeats, device)
    rows = [Row(name, timing, errors.get(name, 0.0)) for name, timing in times.items()]
    title = f'{plain.config.source or type(plain.network).__name__}'
    return TeacherCost(title, [str(tap) for tap in plain.taps], batch, size, rows)


def _ready(teacher: FrozenTeacher, acceleration: Acceleration, size: Size) -> FrozenTeacher:
    teacher.acceleration = acceleration
    with DefaultScope.overwrite_default_scope(teacher.config.scope):
        trace_pair(nn.Identity(), [], {'teacher': teacher}, size)
    return teacher


def _copy(
    teacher: FrozenTeacher, plain: FrozenTeacher, acceleration: Acceleration, state: Mapping[str, Tensor], like: Tensor
) -> FrozenTeacher:
    teacher.acceleration, teacher.stop_after = acceleration, plain.stop_after
    teacher.parts, teacher.heads, teacher.foldable = plain.parts, plain.heads, plain.foldable
    teacher.modes, teacher.overwritten = plain.modes, plain.overwritten
    teacher.renormalise = plain.renormalise
    network = teacher.build()
    network.load_state_dict(state)
    teacher.network = network.requires_grad_(False).to(like.device)
    return teacher


@torch.no_grad()
def _whole(teacher: FrozenTeacher, inputs: Tensor, samples: Any) -> dict[str, list[Tensor]]:
    network: Any = teacher.network
    recorder = Recorder(network, teacher.taps, teacher.key, overwritten=teacher.overwritten)
    with in_training(network.get_submodule(path) for path in teacher.modes), recorder.recording() as tensors:
        network(inputs, samples) if samples else network(inputs)
    return tensors


def _samples(teacher: FrozenTeacher, batch: int, size: Size) -> Any:
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
    rows = [[row.name, str(row.time), f'**{cost.faster(row):.2f}x**', f'{row.error:.1e}'] for row in cost.rows]
    return f'{table(head, rows)}\n\n{NOTE}'


def section(cost: TeacherCost, name: str, device: str, command: str) -> Section:
    """Return the measurement as a part of the benchmark."""
    figures = {**asdict(cost), 'faster': {row.name: cost.faster(row) for row in cost.rows}}
    chart = Chart.of('seconds', {row.name: row.time for row in cost.rows})
    title = f'Teacher {cost.title}'
    return Section(f'teacher_{name}', title, as_markdown(cost), figures, machine(device), command, chart)


def parse_taps(taps: Sequence[str]) -> list[Tap]:
    """Return the taps of their texts."""
    return [Tap.parse(tap) for tap in taps]
