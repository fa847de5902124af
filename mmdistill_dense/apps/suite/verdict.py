"""The verdict of a comparison, which table, report and `run` print: the best method, its gain, the student to use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from scipy.special import stdtr, stdtrit  # scipy.stats.t takes seconds to import

from mmdistill_dense.apps.suite.definition import CONTROL
from mmdistill_dense.utils.validate import some

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
    """Differences at the same seed."""

    by_seed: dict[int, float]  # the difference of each seed
    mean: float  # their mean
    sd: float | None = None  # their standard deviation, ``None`` for one pair, as the next three
    low: float | None = None  # bounds of the mean; ``None``, as the next, if all differences are equal
    high: float | None = None
    p: float | None = None  # the two-sided p-value of a mean of 0, corrected for the table by :func:`holm`

    @property
    def n(self) -> int:
        return len(self.by_seed)

    @property
    def is_significant(self) -> bool:
        """Whether the mean differs from 0, at the level of :data:`LEVEL` for the whole table."""
        return self.p is not None and self.p <= 1 - LEVEL

    @property
    def is_proved(self) -> bool:
        """Whether it is significant, and no loss."""
        return self.is_significant and self.mean > 0

    def bounds(self, digits: int = 2) -> str:
        """Return `` [low, high]`` as text; empty without bounds."""
        return '' if self.low is None else f' [{self.low:+.{digits}f}, {self.high:+.{digits}f}]'


def summarise(values: Sequence[float]) -> Summary | None:
    """Return mean and standard deviation; ``None`` for no values."""
    if not values:
        return None
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Summary(1, mean, None)
    return Summary(n, mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))


def paired_gain(scores: Mapping[int, float], control: Mapping[int, float]) -> Gain | None:
    """Return the mean difference at the same seed with ``mean +- t_{(1 + LEVEL) / 2, n - 1} sd / sqrt(n)``.

    A seed counts where both have a score, and NaN, of a diverged run, is none.
    """
    # a run and its control share first weights and the order of the data, so differences have less noise than scores;
    # one pair has no bounds, nor have differences that are all equal, as those of rounded scores: they tell no noise
    seeds = [
        seed for seed in sorted(scores) if math.isfinite(scores[seed]) and math.isfinite(control.get(seed, math.nan))
    ]
    differences = {seed: scores[seed] - control[seed] for seed in seeds}
    summary = summarise(list(differences.values()))
    if summary is None:
        return None
    if summary.sd is None:
        return Gain(differences, summary.mean)
    mean, error, freedom = summary.mean, summary.sd / math.sqrt(summary.n), summary.n - 1
    if summary.sd <= _EQUAL * max(abs(score) for seed in seeds for score in (scores[seed], control[seed])):
        return Gain(differences, mean, summary.sd)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    p = float(2 * stdtr(freedom, -abs(mean) / error))
    return Gain(differences, mean, summary.sd, mean - half, mean + half, p)


def holm(gains: Mapping[str, Gain | None]) -> dict[str, Gain | None]:
    """Return gains that are tested together, with p-values by Holm's correction."""
    corrected = dict(gains)
    p_values = ((gain.p, name, gain) for name, gain in gains.items() if gain and gain.p is not None)
    ranked = sorted(p_values, key=lambda entry: entry[:2])
    largest = 0.0
    for rank, (p, name, gain) in enumerate(ranked):
        largest = max(largest, min(1.0, (len(ranked) - rank) * p))
        corrected[name] = replace(gain, p=largest)
    return corrected


# The verdict


@dataclass(frozen=True)
class Candidate:
    """A method and the student alone to compare it with: their scores by seed, and those on val, which choose."""

    name: str
    scores: Mapping[int, float]
    control: Mapping[int, float]
    val: Mapping[int, float] = field(default_factory=dict)
    control_val: Mapping[int, float] = field(default_factory=dict)

    def gain_on_val(self, seeds: Sequence[int]) -> float:
        """Return the mean gain on val at some seeds; -inf where a run has no score on val."""
        gain = fmean(self.val.get(seed, math.nan) - self.control_val.get(seed, math.nan) for seed in seeds)
        return gain if math.isfinite(gain) else -math.inf


@dataclass(frozen=True)
class Verdict:
    """What a comparison says."""

    gains: Mapping[str, Gain | None]  # of all methods, with p-values by Holm's correction
    best: Candidate | None  # the best method, ``None`` where no method has a pair of runs
    student: str  # the row to use: the best method if it is proved or gained on val, else the student alone
    chosen_on_val: bool  # whether val, other pictures than those of the scores, chose the best
    teacher: float | None = None  # its score
    digits: int = 2  # of scores in sentences

    @property
    def gain(self) -> Gain | None:
        """The gain of the best method."""
        return self.gains[self.best.name] if self.best else None

    @property
    def control_score(self) -> float:
        """The mean score of the student alone at the seeds of the best method; NaN without a pair."""
        return fmean(self.best.control[seed] for seed in self.gain.by_seed) if self.best and self.gain else math.nan

    def sentence(self) -> str:
        """Return whether the best method helped, by how much, and how sure that is; empty without a pair."""
        if self.best is None or self.gain is None:
            return ''
        gain, control = self.gain, self.control_score
        text = (('Yes.', 'No.') if gain.is_significant else ('Perhaps.', 'No sign of it.'))[not gain.mean > 0]
        if (compared := sum(other is not None for other in self.gains.values())) > 1:
            pictures = ' on val' if self.chosen_on_val else ' on these pictures, which flatters it'
            # what is proved goes before a gain on val
            text += f' Best of {compared} methods{"" if gain.is_proved and self.chosen_on_val else pictures}:'
        scores = f'{self.number(control + gain.mean)}, the student alone {self.number(control)}'
        text += f' {self.best.name} scores {scores}: {self.number(gain.mean, "+")}'
        if self.teacher is not None and gain.mean > 0:
            reached = control + gain.mean >= self.teacher
            share = 'no less than' if reached else f'{gain.mean / (self.teacher - control):.0%} of the way to'
            text += f', {share} the teacher ({self.number(self.teacher)})'
        return f'{text}. {self._certainty(gain)}'

    def _certainty(self, gain: Gain) -> str:
        if gain.low is None or gain.high is None:
            seeds = 'One seed' if gain.n == 1 else f'{gain.n} seeds with the same difference'
            return f'{seeds} cannot tell a gain from chance: train more.'
        interval = f'{gain.n} seeds, 95 % interval {self.number(gain.low, "+")} to {self.number(gain.high, "+")}'
        return f'{"The difference is more than chance" if gain.is_significant else "This may be chance"} ({interval}).'

    def number(self, value: float, sign: str = '') -> str:
        return f'{value:{sign}.{self.digits}f}'


def judge(
    candidates: Sequence[Candidate], test_is_val: bool = False, teacher: float | None = None, digits: int = 2
) -> Verdict:
    """Return the verdict over methods that are compared with the student alone at the same seeds.

    A significant gain goes before the others, and among these more seeds; then the larger gain on val. Where the scores
    are those of val, or no run has one on val, the gain itself chooses, and the sentence says that this flatters it.
    """
    gains = holm({candidate.name: paired_gain(candidate.scores, candidate.control) for candidate in candidates})
    compared = [(candidate, gain) for candidate in candidates if (gain := gains[candidate.name])]
    on_val = {candidate.name: candidate.gain_on_val([*gain.by_seed]) for candidate, gain in compared}
    chosen_on_val = not test_is_val and any(map(math.isfinite, on_val.values()))
    choosing = on_val if chosen_on_val else {candidate.name: gain.mean for candidate, gain in compared}

    def rank(pair: tuple[Candidate, Gain]) -> tuple[bool, int, float]:
        candidate, gain = pair
        return gain.is_proved, 0 if gain.is_proved else gain.n, choosing[candidate.name]

    best, gain = max(compared, key=rank, default=(None, None))
    student = CONTROL
    if (
        best is not None
        and gain is not None
        and (gain.is_proved or (choosing[best.name] > 0 and not gain.is_significant))
    ):
        student = best.name
    teacher = None if teacher is None or math.isnan(teacher) else teacher
    return Verdict(gains, best, student, chosen_on_val, teacher, digits)


def missing_sentence(missing: Mapping[str, str]) -> str:
    """Return which runs have no score and why, by their titles; empty if all have one."""
    reasons: dict[str, list[str]] = {}
    for title, reason in missing.items():
        reasons.setdefault(reason, []).append(title)
    runs = '; '.join(f'{some(titles)} ({reason})' for reason, titles in reasons.items())
    return f'Gains count the seeds at which both runs have a score. Without one: {runs}.' if runs else ''


def missing_reason(result: Mapping[str, Any] | None, state: Mapping[str, Any]) -> str:
    """Return why a run has no score, from its result and the last report of its training; empty if it has one."""
    if result is not None:
        return '' if math.isfinite(result['score']) else 'diverged'
    return f'failed: {state["failed"]}' if 'failed' in state else 'not finished' if state else 'not begun'
