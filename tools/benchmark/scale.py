"""How the cost of a loss grows: time and extra memory over a range of one size, and the exponent of its growth."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mmdistill_dense.analysis.timing import interleaved_times, peak_extra_memory
from tools.benchmark import afdcd_cases as afdcd
from tools.benchmark import baseline_cases as baselines
from tools.benchmark import maskd_cases as maskd
from tools.benchmark import pcd_cases as pcd
from tools.benchmark.loss_cases import Case, one_pass
from tools.benchmark.section import Chart, table

Grow = Callable[[Any, int], Any]  # (size, factor) -> size

FACTORS = (1, 2, 4, 8)
NOTE = (
    "Forward and backward of a method's loss. An exponent is the slope of the logarithms over the whole range: 1 is "
    'linear, 0 is constant; a part that every call costs pulls it down. Memory: peak beyond the inputs; the queue is '
    'an input. Convolutions (align + first conv, MGD, FitNet) grow with the square of the channels, inputs and outputs '
    'at once. CIRKD compares all pixels of all pictures: with the square of batch and pixels, by definition.'
)


@dataclass(frozen=True)
class Subject:
    """What grows: the smallest size, its cases, and the axes along which the size can grow.

    ``concerned`` names, for an axis that not all cases notice, how the names of those begin that do.
    """

    size: Any
    cases: Callable[[Any], list[Case]]
    axes: Mapping[str, Grow]
    concerned: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One case along one axis: seconds and bytes at each factor, and the exponents of their growth."""

    method: str
    name: str
    axis: str
    factors: Sequence[int]
    seconds: Sequence[float]
    extra_bytes: Sequence[int]

    @property
    def time_exponent(self) -> float:
        """Slope of the logarithm of the seconds."""
        return exponent(self.factors, self.seconds)

    @property
    def memory_exponent(self) -> float:
        """Slope of the logarithm of the bytes."""
        return exponent(self.factors, self.extra_bytes)


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Fit ``y = a x^b`` by least squares of the logarithms and return b.

    Raises:
        ValueError: For fewer than two different x, or values that are not positive.
    """
    if len(set(x)) < 2 or min(*x, *y) <= 0:
        raise ValueError(f'an exponent needs two different positive sizes and positive values, got {x} and {y}')
    logs = [[math.log(value) for value in values] for values in (x, y)]
    return statistics.linear_regression(*logs).slope


def _field(name: str) -> Grow:
    return lambda size, factor: replace(size, **{name: getattr(size, name) * factor})


def _channels(size: Any, factor: int) -> Any:
    return replace(size, student=size.student * factor, teacher=size.teacher * factor)


def _pixels(size: Any, factor: int) -> Any:
    return replace(size, maps=[(height * factor, width) for height, width in size.maps])


def _baseline(name: str, **axes: Grow) -> Subject:
    size = replace(_BASELINE_SIZES.get(name, _MAPS), repeats=1)
    shared = {'batch': _field('batch'), 'channels': _channels} | ({'pixels': _pixels} if size.maps else {})
    return Subject(size, baselines.METHODS[name].make, shared | axes)


_MAPS = baselines.Size(1, 64, 64, [(64, 64)], classes=19)
_BASELINE_SIZES = {
    'at': baselines.Size(1, 64, 256, [(64, 64)]),
    'skd': baselines.Size(2, 64, 64, [(16, 64)]),
    'cirkd': baselines.Size(2, 64, 64, [(16, 24)], keys=512),
    'mgd': baselines.Size(1, 64, 64, [(32, 64)]),
    'fgd': baselines.Size(1, 64, 64, [(32, 64)], boxes=4),
    'ld': baselines.Size(2, 17, 17, [], boxes=2000),
}
SUBJECTS: dict[str, Subject] = {
    'afdcd': Subject(
        afdcd.Size(64, 256, 16, 32, pool=0, groups=8),
        afdcd.cases_of,
        {
            'batch': _field('batch'),
            'pixels': _field('height'),
            'channels': _channels,
            'groups': lambda size, factor: replace(size, groups=4 * factor),
        },
        {'groups': 'contrast'},
    ),
    'maskd': Subject(
        maskd.Size(1, 128, 4, [(64, 64)], detection=True, repeats=1),
        maskd.cases_of,
        {'batch': _field('batch'), 'pixels': _pixels, 'channels': _field('channels'), 'tokens': _field('tokens')},
    ),
    'pcd': Subject(
        pcd.Size(1024, 64, 4096, repeats=1),
        pcd.cases_of,
        {'pixels': _field('pixels'), 'channels': _field('channels'), 'queue': _field('queue')},
    ),
    **{name: _baseline(name) for name in baselines.METHODS if name not in ('cirkd', 'ifvd')},
    'cirkd': replace(_baseline('cirkd', queue=_field('keys')), concerned={'queue': 'pixels against'}),
    'ifvd': _baseline('ifvd', classes=_field('classes')),
}


def measure(
    device: str | torch.device = 'cpu',
    repeats: int = 3,
    *,
    methods: Sequence[str] = tuple(SUBJECTS),
    over: Sequence[str] | None = None,
    factors: Sequence[int] = FACTORS,
) -> list[Row]:
    """Measure the cases of methods along their axes.

    Args:
        device: Where the losses run.
        repeats: Timed turns; all sizes of an axis take turns.
        methods: Keys of SUBJECTS.
        over: The axes. Defaults to all that a method has.
        factors: By which the smallest size grows.

    Raises:
        ValueError: Naming the methods or axes there are, for others; where no method has one of the axes.
    """
    if unknown := sorted(set(methods) - set(SUBJECTS)):
        raise ValueError(f'no method {", ".join(unknown)}; there are {", ".join(sorted(SUBJECTS))}')
    axes = {axis: None for method in methods for axis in SUBJECTS[method].axes}
    if unknown := sorted(set(over or ()) - set(axes)):
        raise ValueError(f'{", ".join(methods)} cannot grow over {", ".join(unknown)}; choose from {", ".join(axes)}')
    return [
        row
        for method in methods
        for axis in SUBJECTS[method].axes
        if over is None or axis in over
        for row in _along(method, axis, device, repeats, factors)
    ]


def _along(method: str, axis: str, device: str | torch.device, repeats: int, factors: Sequence[int]) -> list[Row]:
    subject = SUBJECTS[method]
    grown = [subject.cases(subject.axes[axis](subject.size, factor)) for factor in factors]
    rows = []
    for cases in zip(*grown, strict=True):
        if not cases[0].name.startswith(subject.concerned.get(axis, '')):
            continue
        passes = [one_pass(case.ours, case, device=device) for case in cases]
        works = {str(factor): work for factor, work in zip(factors, passes, strict=True)}
        seconds = [timing.median for timing in interleaved_times(works, repeats, device).values()]
        extra = [peak_extra_memory(work, device) for work in passes]
        rows.append(Row(method, cases[0].name, axis, list(factors), seconds, extra))
    return rows


def figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as plain values, exponents included."""
    keys = ('method', 'name', 'axis', 'factors', 'seconds', 'extra_bytes', 'time_exponent', 'memory_exponent')
    return [{key: getattr(row, key) for key in keys} for row in rows]


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table of the rows."""
    head = ['method', 'loss', 'over', 'factors', 'ms', 'exponent', 'extra MiB', 'exponent']
    lines = []
    for row in rows:
        times = ' / '.join(f'{1000 * value:.3g}' for value in row.seconds)
        sizes = ' / '.join(f'{value / 2**20:.3g}' for value in row.extra_bytes)
        factors = ', '.join(str(factor) for factor in row.factors)
        exponents = [f'**{value:.2f}**' for value in (row.time_exponent, row.memory_exponent)]
        lines.append([row.method, row.name, row.axis, factors, times, exponents[0], sizes, exponents[1]])
    return table(head, lines)


def chart(rows: Sequence[Row]) -> Chart:
    """Return a chart of the exponents in time, with a mark at 1."""
    bars = {f'{row.method}, {row.name}: {row.axis}': (row.time_exponent,) * 3 for row in rows}
    return Chart('exponent of the time', bars, mark=1.0)
