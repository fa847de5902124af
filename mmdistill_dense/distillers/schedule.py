"""Schedule of a distiller's weight over training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """Factor in [0, 1] that multiplies a distiller's weight at each iteration; the default is constant 1.

    Every point in time is an iteration (int) or a fraction of the run (float in (0, 1]).

    Args:
        warmup: Rise linearly from 0; the full weight is reached at this point.
        ramp_down: ``(begin, end)``: fall linearly from 1 to 0 between the two.
        stop_at: 0 from this point on.

    Raises:
        ValueError: For a point that is neither a non-negative int nor a float in (0, 1], or a ramp that does not fall.
    """

    warmup: int | float = 0
    ramp_down: tuple[int | float, int | float] | None = None
    stop_at: int | float | None = None

    def __post_init__(self) -> None:
        points = {'warmup': self.warmup, 'stop_at': self.stop_at}
        for name, point in points.items():
            check_point(f'schedule.{name}', point)
        if self.ramp_down is not None:
            _check_ramp(self.ramp_down)

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Schedule:
        """Make a schedule from a config's options.

        Raises:
            ValueError: For an unknown option.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f'schedule has no {", ".join(unknown)}; its options are {", ".join(known)}.')
        return cls(**options)

    def factor(self, iteration: int, max_iters: int) -> float:
        """Return the factor at ``iteration`` (counted from 0) of a run of ``max_iters`` iterations.

        Raises:
            RuntimeError: For a point that is a fraction of a run whose length is not known (``max_iters`` is 0).
        """
        if self.stop_at is not None and iteration >= in_iterations(self.stop_at, max_iters):
            return 0.0
        factor = 1.0
        if self.warmup:
            factor = min(1.0, (iteration + 1) / max(in_iterations(self.warmup, max_iters), 1.0))
        if self.ramp_down is not None:
            begin, end = (in_iterations(point, max_iters) for point in self.ramp_down)
            factor *= min(1.0, max(0.0, (end - iteration) / max(end - begin, 1.0)))
        return factor

    def end(self, max_iters: int) -> float:
        """Return the iteration from which the factor is 0 for good, infinity if there is none.

        Raises:
            RuntimeError: As :meth:`factor`.
        """
        ends = [self.stop_at, *(self.ramp_down[1:] if self.ramp_down else ())]
        return min((in_iterations(point, max_iters) for point in ends if point is not None), default=math.inf)


def in_iterations(point: int | float, max_iters: int) -> float:
    """Return a point in time, an iteration (int) or a fraction of the run (float), in iterations.

    Raises:
        RuntimeError: For a fraction of a run whose length is not known (``max_iters`` is 0).
    """
    if not isinstance(point, float):
        return point
    if max_iters < 1:
        raise RuntimeError(
            f'schedule: {point} is a fraction of the run, but the length of the run is not known. DistillHook '
            'sets it; without a runner, set model.distillation.state.max_iters.'
        )
    return point * max_iters


def _check_ramp(ramp: Any) -> None:
    if not isinstance(ramp, (tuple, list)) or len(ramp) != 2:
        raise ValueError(f'schedule.ramp_down must be a pair (begin, end), got {ramp!r}.')
    begin, end = ramp
    check_point('schedule.ramp_down[0]', begin)
    check_point('schedule.ramp_down[1]', end)
    if type(begin) is type(end) and not begin < end:
        raise ValueError(f'schedule.ramp_down must begin before it ends, got {ramp!r}.')


def check_point(name: str, point: int | float | None) -> None:
    """Raise a ``ValueError`` that names the option unless ``point`` is an iteration, a fraction of the run or None."""
    if point is None:
        return
    is_iteration = isinstance(point, int) and not isinstance(point, bool) and point >= 0
    is_fraction = isinstance(point, float) and 0 < point <= 1
    if not (is_iteration or is_fraction):
        raise ValueError(
            f'{name} must be an iteration (int >= 0) or a fraction of the run (float in (0, 1]), got {point!r}.'
        )
