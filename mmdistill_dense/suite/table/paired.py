"""Mean, standard deviation and paired gain over seeds, with interval and test by Student's t."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.special import stdtr, stdtrit  # scipy.stats.t takes seconds to import

LEVEL = 0.95
_EQUAL = 1e-12  # of the scores: differences that differ by less are equal but for rounding


@dataclass(frozen=True)
class Summary:
    """The scores of several seeds. ``sd`` divides by n - 1, and is ``None`` for one seed."""

    n: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Gain:
    """Differences at the same seed.

    Attributes:
        each: The difference of each seed.
        mean: Their mean.
        sd: Their standard deviation, ``None`` for one pair, as the next three.
        low: Lower bound of the mean; ``None``, as the next two, if all differences are equal.
        high: Upper bound of the mean.
        p: The two-sided p-value of a mean of 0, corrected for the rows of the table by :func:`paired_gains`.
    """

    each: dict[int, float]
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.each)

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.high is None else self.high - self.mean

    @property
    def told_apart(self) -> bool:
        """Whether the mean differs from 0, at the level of :data:`LEVEL` for the whole table."""
        return self.p is not None and self.p <= 1 - LEVEL


def summarise(values: Sequence[float]) -> Summary | None:
    """Return the mean and standard deviation of a sample; ``None`` if it is empty.

    The ``nan`` of a diverged run counts, and makes the mean ``nan``.
    """
    if not values:
        return None
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Summary(1, mean, None)
    return Summary(n, mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))


def paired_gain(scores: Mapping[int, float], control: Mapping[int, float]) -> Gain | None:
    """Return the mean of ``scores[seed] - control[seed]`` over the seeds in both, with its interval, or ``None``.

    ``mean +- t_{(1 + LEVEL) / 2, n - 1} sd / sqrt(n)``: a run and its control share their seed, thus the student's
    first weights and the order of the data, so the differences have less noise than the scores. The interval is exact
    for normal differences, which two or three pairs cannot show. A single pair has no bounds, nor have differences that
    are all equal, as those of rounded scores may be: they say nothing about the noise.
    """
    each = {seed: scores[seed] - control[seed] for seed in sorted(scores) if seed in control}
    summary = summarise(list(each.values()))
    if summary is None:
        return None
    if summary.sd is None:
        return Gain(each, summary.mean)
    mean, error, freedom = summary.mean, summary.sd / math.sqrt(summary.n), summary.n - 1
    if summary.sd <= _EQUAL * max(map(abs, [*scores.values(), *control.values()])):
        return Gain(each, mean, summary.sd)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    p = float(2 * stdtr(freedom, -abs(mean) / error))
    return Gain(each, mean, summary.sd, mean - half, mean + half, 1.0 if math.isnan(p) else p)


def paired_gains(scores: Mapping[str, Mapping[int, float]], control: Mapping[int, float]) -> dict[str, Gain | None]:
    """Return the gain of every row of a table, with p-values by :func:`holm` over the rows."""
    return holm({name: paired_gain(own, control) for name, own in scores.items()})


def holm(gains: Mapping[str, Gain | None]) -> dict[str, Gain | None]:
    """Return gains that are tested together, with p-values by Holm's correction.

    If none of the means differs from 0, at most ``1 - LEVEL`` of such groups have a significant gain.
    """
    corrected = dict(gains)
    tested = sorted(
        ((gain.p, name, gain) for name, gain in gains.items() if gain and gain.p is not None), key=lambda one: one[:2]
    )
    largest = 0.0
    for place, (p, name, gain) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - place) * p))
        corrected[name] = replace(gain, p=largest)
    return corrected
