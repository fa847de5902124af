"""Means, spreads and paired gains over seeds, with the interval of Student's t."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Summary:
    """Scores of several seeds; ``sd`` divides by n - 1 and is ``None`` for one seed."""

    n: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Gain:
    """Differences at the same seed; ``low`` and ``high`` bound their mean, ``None`` for one pair."""

    each: dict[int, float]
    mean: float
    sd: float | None
    low: float | None
    high: float | None

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
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def summarise(values: Sequence[float]) -> Summary | None:
    """Return mean and standard deviation of a sample, ``None`` of nothing.

    A diverged run's ``nan`` is a value like any other: it makes the mean ``nan``.
    """
    if not values:
        return None
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Summary(1, mean, None)
    return Summary(n, mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))


def paired_gain(scores: Mapping[int, float], control: Mapping[int, float], level: float = LEVEL) -> Gain | None:
    """Return the mean of ``scores[seed] - control[seed]`` over the seeds that both have, with its interval.

    ``mean +- t_{(1 + level) / 2, n - 1} sd / sqrt(n)``: a run and its control share their seed, thus the student's
    first weights and the order of the data, so the differences have less noise than the scores. The interval holds at
    the stated level when the differences are normal, which two or three pairs cannot tell.

    Args:
        scores: Score of each seed of a method.
        control: The same of its control.
        level: Of the interval.

    Returns:
        ``None`` when no seed is in both; without bounds for a single pair.
    """
    each = {seed: scores[seed] - control[seed] for seed in sorted(scores) if seed in control}
    summary = summarise(list(each.values()))
    if summary is None:
        return None
    if summary.sd is None:
        return Gain(each, summary.mean, None, None, None)
    half = t_quantile((1 + level) / 2, summary.n - 1) * summary.sd / math.sqrt(summary.n)
    return Gain(each, summary.mean, summary.sd, summary.mean - half, summary.mean + half)


def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t for a whole number of degrees of freedom.

    The distribution function is a finite sum there; it is inverted by bisection, to the last digits.

    Raises:
        ValueError: For a probability outside (0, 1) or fewer than one degree of freedom.
    """
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f't_quantile: needs 0 < probability < 1 and freedom >= 1, got {probability} and {freedom}')
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, math.pi / 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 2 * probability - 1 else (low, middle)
    return math.tan(high) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """P(|t| < tan(angle) sqrt(freedom)); Abramowitz and Stegun 26.7.3 and 26.7.4."""
    odd = freedom % 2
    square = math.cos(angle) ** 2
    term, total = 1.0, 1.0 if freedom > 1 else 0.0
    for step in range(2 + odd, freedom - 1, 2):  # the exponents of the cosine, or one less
        term *= square * (step - 1) / step
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
