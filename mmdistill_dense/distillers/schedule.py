"""The weight of a distiller over training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmdistill_dense.utils.validate import Iteration, PartOfRun


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
