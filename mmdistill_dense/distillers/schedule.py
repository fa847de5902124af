"""The weight of a distiller over training: its schedule, and the balance with the student's own loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Annotated, Any, Literal, NamedTuple

from mmdistill_dense.config.unknown_keys import read_options
from mmdistill_dense.utils.validate import Count, Iteration, PartOfRun


@dataclass(frozen=True)
class Schedule:
    """Factor in [0, 1] that multiplies a distiller's weight at each iteration; the default is constant 1.

    Every point in time is an iteration (int) or a fraction of the run (float in (0, 1]).

    Args:
        warmup: Rise linearly from 0; the full weight is reached at this point.
        ramp_down: ``(begin, end)``: fall linearly from 1 to 0 between the two.
        stop_at: 0 from this point on.
    """

    warmup: Iteration | PartOfRun = 0
    ramp_down: tuple[Iteration | PartOfRun, Iteration | PartOfRun] | None = None
    stop_at: Iteration | PartOfRun | None = None

    def __post_init__(self) -> None:
        begin, end = self.ramp_down or (0, 1)
        if type(begin) is type(end) and not begin < end:
            raise ValueError(f'schedule.ramp_down must begin before it ends, got {self.ramp_down!r}.')

    def factor(self, iteration: int, max_iters: int) -> float:
        """Return the factor at ``iteration`` (counted from 0) of a run of ``max_iters`` iterations."""
        if self.stop_at is not None and iteration >= in_iterations(self.stop_at, max_iters):
            return 0.0
        factor = 1.0
        if self.warmup:
            factor = min(1.0, (iteration + 1) / max(in_iterations(self.warmup, max_iters), 1.0))
        if self.ramp_down is not None:
            begin, end = (in_iterations(point, max_iters) for point in self.ramp_down)
            factor *= min(1.0, max(0.0, (end - iteration) / max(end - begin, 1.0)))
        return factor

    def check(self, key: str, max_iters: int) -> str | None:
        """Refuse a schedule that cannot work in a run of ``max_iters``; return a warning if a part has no effect."""
        begin, end = (in_iterations(point, max_iters) for point in self.ramp_down or (0, 1))
        if begin >= end:
            raise ValueError(
                f'{key}.schedule.ramp_down={self.ramp_down!r} begins at iteration {begin:g} and ends at {end:g} of '
                f'{max_iters}: it must begin before it ends.'
            )
        last = min(self.end(max_iters), max_iters)
        if last <= 0:
            return f'{key}.schedule: the weight is 0 in the whole run.'
        points = {'warmup': in_iterations(self.warmup, max_iters), 'ramp_down[0]': begin}
        late = {name: point for name, point in points.items() if point > last}
        if not late:
            return None
        late_points = ', '.join(f'{name} is iteration {point:g}' for name, point in late.items())
        return (
            f'{key}.schedule: {late_points}, but the weight ends at iteration {last:g} of {max_iters}. Points are '
            'iterations, or fractions of the run such as 0.5.'
        )

    def end(self, max_iters: int) -> float:
        """Return the iteration from which the factor is 0 for good, infinity if there is none."""
        ends = [self.stop_at, *(self.ramp_down[1:] if self.ramp_down else ())]
        return min((in_iterations(point, max_iters) for point in ends if point is not None), default=math.inf)


def in_iterations(point: int | float, max_iters: int) -> float:
    """Return a point in time, an iteration (int) or a fraction of the run (float), in iterations."""
    if not isinstance(point, float):
        return point
    if max_iters < 1:
        problem = f'schedule: {point} is a fraction of the run, but the length of the run is not known'
        raise RuntimeError(f'{problem}: a loop of your own calls model.distillation.start(max_iters=…).')
    return point * max_iters


CONSTANT = Schedule()
AUTO = 'auto'  # a ratio
# The ratio of 'auto'. Measured with one seed on CamVid with 46 labels, for MasKD and PCD (docs/results.md).
AUTO_RATIO = 10.0
# The same with SGD at most, whose steps are as long as the gradient. Not measured.
AUTO_RATIO_SGD = 2.0
LEAST, MOST = 8, 32  # measurements in a run
SMALLEST, LARGEST = 1e-6, 1e6  # weight
_EARLY = (0, 2, 4, 8, 16, 32)  # norms change most at the start
_COST = 0.3  # of a step, for the backward pass of one term to the backbone
_BUDGET = 0.02  # of the run
_DECIDING = 4  # measurements in the second half of the window
_DECAY, _FREE, _MOVE = 0.8, 3, 2.0
_NO_TASK = 1e-12


Ratio = Annotated[float, '> 0 (loss_weight=0 removes a distiller)', lambda value: value > 0]


@dataclass(frozen=True)
class Balance:
    """Option ``balance`` of a distiller.

    Args:
        ratio: Norm of the distiller's gradient at the student's backbone over that of the task's, where the schedule's
            factor is 1. ``'auto'``: see :func:`auto_ratio`.
        until: Measure from iteration 0 to here, an iteration (int) or a fraction of the run (float in (0, 1]), then
            hold the weight; 1.0 measures to the end. Defaults to 0.25.
    """

    ratio: Ratio | Literal['auto']
    until: Count | PartOfRun = 0.25

    @classmethod
    def parse(cls, option: float | str | Mapping[str, Any]) -> Balance:
        """Make it from a config's option: the ratio alone, or a dict."""
        return read_options(cls, option if isinstance(option, Mapping) else {'ratio': option}, 'balance')


def auto_ratio(distillers: int, sgd: bool) -> float:
    """Return the ratio that ``'auto'`` stands for.

    ``10 / sqrt(n)`` for each of n distillers with ``'auto'``: if their gradients are orthogonal, their sum has the
    ratio 10. With SGD, whose steps grow with the gradient as Adam's do not, 2 in place of 10.
    """
    return (min(AUTO_RATIO, AUTO_RATIO_SGD) if sgd else AUTO_RATIO) / math.sqrt(distillers)


class Measurement(NamedTuple):
    """One measurement: iteration, norm of the task's gradient, norm of the distiller's."""

    iteration: int
    task: float
    method: float

    @property
    def log_ratio(self) -> float | None:
        """``ln T - ln U``; None where a norm is not finite or too small."""
        valid = _NO_TASK <= self.task < math.inf and 0 < self.method < math.inf
        return math.log(self.task) - math.log(self.method) if valid else None


def plan_measurements(window: float, max_iters: int, terms: int) -> frozenset[int]:
    """Return the iterations to measure: some of the first ones, others spread evenly over both halves of the window.

    The cost is 2 % of the run, or that of 8 measurements if the run is short. Depends on the config alone: the window
    and the run in iterations, and the number of distillers that are balanced.
    """
    count = min(MOST, max(LEAST, int(_BUDGET * max_iters / (_COST * (1 + terms)))))
    half = math.ceil(window / 2)
    early = [iteration for iteration in _EARLY if iteration < half]
    late = _spread(range(half, math.ceil(window)), max(_DECIDING, (count - len(early)) // 2))
    early = early[: count - len(late)]
    candidates = [iteration for iteration in range(half) if iteration not in early]
    return frozenset((*early, *_spread(candidates, count - len(early) - len(late)), *late))


def _spread(iterations: Sequence[int], count: int) -> list[int]:
    count = min(count, len(iterations))
    return [iterations[int((index + 0.5) * len(iterations) / count)] for index in range(count)]


class Balancer:
    """The measurements of one distiller, and the weight that follows from them.

    Outside of a training step the weight is 1 before the first measurement; in training it is 0 until one is valid.
    """

    def __init__(self, option: Balance) -> None:
        self.option = option
        self.tries: list[Measurement] = []
        self.unit: float | None = None
        self.first: int | None = None  # iteration of the first measurement, later than 0 where it measures anew
        self.window = 0.0
        self.plan: frozenset[int] = frozenset()
        self.due = False
        self._training = False
        self._warned = False

    @property
    def ratio(self) -> float:
        """The ratio; ``'auto'`` has been replaced by :meth:`choose_ratio`."""
        assert not isinstance(self.option.ratio, str), 'chosen before the first step'
        return self.option.ratio

    def choose_ratio(self, ratio: float) -> None:
        """Replace the ratio ``'auto'``."""
        self.option = replace(self.option, ratio=ratio)

    @property
    def weight(self) -> float:
        """The weight where the schedule's factor is 1."""
        unit = self._average() if self.unit is None else self.unit
        if unit is None:
            return 0.0 if self._training else 1.0
        weight = min(max(self.ratio * unit, SMALLEST), LARGEST)
        # Held as it is printed, so that a run with that number as its loss_weight is the same to the bit.
        return weight if self.unit is None else float(f'{weight:.4g}')

    def start(self, max_iters: int, terms: int, begin: int = 0) -> None:
        """Make the plan for a run that begins at iteration ``begin``; ``terms`` distillers are balanced."""
        self.first, window = begin if self.first is None else self.first, in_iterations(self.option.until, max_iters)
        self.window = self.first + window
        self.plan = frozenset(self.first + offset for offset in plan_measurements(window, max_iters, terms))

    def move(self, share: float) -> None:
        """Count the measurements of a resumed run in steps of its new loader, ``share`` times as many."""
        self.tries = [trial._replace(iteration=round(share * trial.iteration)) for trial in self.tries]
        self.first = round(share * (self.first or 0))

    def begin(self, iteration: int, factor: float, key: str) -> list[tuple[int, str]]:
        """Say whether the coming step is measured, or hold the weight; return lines for the log with their levels."""
        self._training = True
        self.due = self.unit is None and factor != 0 and iteration in self.plan
        ended = factor == 0 and not self.tries  # measured anew, where the schedule has ended
        return self._hold(key) if self.unit is None and iteration >= self.window and not ended else []

    def add(self, measured: Measurement, loss: float, key: str) -> str | None:
        """Take the measurement of this step and its loss without weight; return a warning, once, if the weight had to
        be cut.
        """
        self.due = False
        self.tries.append(measured)
        if measured.iteration >= self._middle and all(trial.method == 0 for trial in self.tries):
            raise RuntimeError(
                f'{key} gives no gradient at the backbone: in {len(self.tries)} measurements until iteration '
                f'{measured.iteration} it was 0. Is student_tap behind frozen or detached layers, or the loss constant?'
            )
        unit = self._average()
        weight = 1.0 if unit is None else self.ratio * unit
        if SMALLEST <= weight <= LARGEST or self._warned:
            return None
        self._warned = True
        return (
            f'{key}.balance: a ratio of {self.ratio:g} needs the weight {weight:.3g}, which is cut to '
            f'{self.weight:g}. Its loss is {loss:.3g} before the weight: is it a sum where a mean is usual?'
        )

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        state = {'tries': [list(trial) for trial in self.tries], 'unit': self.unit}
        return {**state, 'first': self.first} if self.first else state

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state`."""
        self.tries = [Measurement(*trial) for trial in state['tries']]
        self.unit = state['unit']
        self.first = state.get('first', 0)

    @property
    def _middle(self) -> float:
        return (self.window + (self.first or 0)) / 2

    def _valid(self) -> list[tuple[int, float]]:
        return [(trial.iteration, ratio) for trial in self.tries if (ratio := trial.log_ratio) is not None]

    def _average(self) -> float | None:
        """Return the weight of ratio 1 in the window, None without a valid measurement."""
        unit, total, weights = None, 0.0, 0.0
        for number, (_, ratio) in enumerate(self._valid()):
            total, weights = _DECAY * total + ratio, _DECAY * weights + 1
            weight = math.exp(min(total / weights, 700.0))  # which does not overflow
            unit = weight if unit is None or number < _FREE else min(max(weight, unit / _MOVE), unit * _MOVE)
        return unit

    def _hold(self, key: str) -> list[tuple[int, str]]:
        if not (valid := self._valid()):
            tries = ', '.join(f'{trial.iteration}: {trial.task:.3g} and {trial.method:.3g}' for trial in self.tries)
            raise RuntimeError(
                f'{key}.balance: no measurement until iteration {self.window:g} was valid (norms of task and method, '
                f'where the 0 of a task means that nothing is labelled: {tries or "none measured"}). Label more '
                'pictures, train for more iterations, or set balance=None and give loss_weight.'
            )
        late = [ratio for iteration, ratio in valid if iteration >= self._middle]
        ratios = late if len(late) >= _DECIDING else [ratio for _, ratio in valid]
        self.unit = math.exp(min(median(ratios), 700.0))
        low, _, high = quantiles(ratios, method='inclusive') if len(ratios) > 1 else (0.0, 0.0, 0.0)
        spread = math.exp((high - low) / 2)
        lines = [
            (
                logging.INFO,
                f'{key}: weight {self.weight:g} from {len(ratios)} measurements (x/÷ {spread:.2f}); to repeat without '
                f'measuring: balance=None, loss_weight={self.weight!r}',
            )
        ]
        if len(late) < _DECIDING:
            message = (
                f'{key}.balance: only {len(late)} valid measurements in the second half of the window, so all '
                f'{len(valid)} decide, and the weight is less certain. A later balance.until gives more.'
            )
            lines.append((logging.WARNING, message))
        return lines
