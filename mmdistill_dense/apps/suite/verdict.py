"""The rows of a comparison and its verdict, which table, report and `run` print: gains, the best, the one to use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtr, stdtrit  # scipy.stats.t takes seconds to import

from mmdistill_dense.apps.suite.definition import CONTROL, TEACHER, is_alone
from mmdistill_dense.utils.validate import some

LEVEL = 0.95
Results = Mapping[int, Mapping[str, Any]]  # what runs left in result.json, by seed
_EQUAL = 1e-12  # of the scores: differences that differ by less are equal but for rounding


@dataclass(frozen=True)
class Gain:
    """Differences at the same seed."""

    by_seed: dict[int, float]  # the difference of each seed
    mean: float  # their mean
    low: float | None = None  # bounds of the mean; ``None``, as the next, for one pair, or if all are equal
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


def paired_gain(scores: Mapping[int, float], control: Mapping[int, float]) -> Gain | None:
    """Return the mean difference at the seeds of both, with ``mean +- t_{(1 + LEVEL) / 2, n - 1} sd / sqrt(n)``."""
    # a run and its control share first weights and the order of the data, so differences have less noise than scores;
    # one pair has no bounds, nor have differences that are all equal, as those of rounded scores: they tell no noise
    seeds = sorted(scores.keys() & control.keys())
    differences = {seed: scores[seed] - control[seed] for seed in seeds}
    if not seeds:
        return None
    mean, largest = fmean(differences.values()), max(abs(row[seed]) for seed in seeds for row in (scores, control))
    sd = stdev(differences.values()) if len(seeds) > 1 else 0.0
    if sd <= _EQUAL * largest:
        return Gain(differences, mean)
    error, freedom = sd / math.sqrt(len(seeds)), len(seeds) - 1
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Gain(differences, mean, mean - half, mean + half, p=float(2 * stdtr(freedom, -abs(mean) / error)))


def holm(gains: Mapping[str, Gain | None]) -> dict[str, Gain | None]:
    """Return gains that are tested together, with p-values by Holm's correction."""
    tested = [(gain.p, name, gain) for name, gain in gains.items() if gain and gain.p is not None]
    corrected, largest = dict(gains), 0.0
    for rank, (p, name, gain) in enumerate(sorted(tested, key=lambda entry: entry[:2])):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[name] = replace(gain, p=largest)
    return corrected


# Rows and the verdict over them


@dataclass(frozen=True)
class Row:
    """A network of a comparison. A method has the row of the student alone beside it, and where seeds pair, a gain."""

    name: str
    results: Results
    control: Row | None = None  # ``None`` for the teacher and the student alone
    gain: Gain | None = None  # over the control, with a p-value by Holm's correction

    @property
    def scores(self) -> dict[int, float]:
        """The scores in percent, by seed; a diverged run has none."""
        scores = {seed: result['score'] for seed, result in sorted(self.results.items())}
        return {seed: score for seed, score in scores.items() if math.isfinite(score)}

    def metric_on(self, split: str) -> dict[int, float]:
        """Return the same metric on another split, by seed, as far as runs have it."""
        runs = ((seed, (result.get('metrics') or {}).get(split), result) for seed, result in self.results.items())
        # mmdet returns no metric for a detector without a single detection
        scores = ((seed, 0.0 if values == {} else (values or {}).get(run.get('metric'))) for seed, values, run in runs)
        return {seed: score for seed, score in scores if score is not None}

    @property
    def on_val(self) -> dict[int, float]:
        """The same metric on val, by seed; NaN is none."""
        return {seed: score for seed, score in self.metric_on('val').items() if math.isfinite(score)}

    @property
    def mean(self) -> float:
        """The mean score; NaN without any."""
        return fmean(self.scores.values()) if self.scores else math.nan

    def gain_on_val(self) -> float:
        """Return the mean gain on val at the seeds of the gain; -inf where a run has no score on val."""
        assert self.gain is not None and self.control is not None, 'rows with a gain are compared'
        val, control = self.on_val, self.control.on_val
        gain = fmean(val.get(seed, math.nan) - control.get(seed, math.nan) for seed in self.gain.by_seed)
        return gain if math.isfinite(gain) else -math.inf


@dataclass(frozen=True)
class Verdict:
    """What a comparison says."""

    rows: tuple[Row, ...]
    best: Row | None  # the best method, ``None`` where no method has a pair of runs
    student: str  # the row to use: the best method if it is proved or gained on val, else the student alone
    chosen_on_val: bool  # whether val, other pictures than those of the scores, chose the best
    teacher: float | None = None  # its score
    digits: int = 2  # of scores in sentences

    @property
    def gain(self) -> Gain | None:
        """The gain of the best method."""
        return self.best.gain if self.best else None

    @property
    def control_score(self) -> float:
        """The mean score of the student alone at the seeds of the best method; NaN without a pair."""
        control = self.best.control if self.best else None
        return fmean(control.scores[seed] for seed in self.gain.by_seed) if control and self.gain else math.nan

    def row(self, name: str) -> Row:
        """Return a row by its name; an empty one if there is none."""
        return next((row for row in self.rows if row.name == name), Row(name, {}))

    def sentence(self) -> str:
        """Return whether the best method helped, by how much, and how sure that is; empty without a pair."""
        if self.best is None or self.gain is None:
            return ''
        gain, control = self.gain, self.control_score
        text = (('Yes.', 'No.') if gain.is_significant else ('Perhaps.', 'No sign of it.'))[not gain.mean > 0]
        if (compared := sum(row.gain is not None for row in self.rows)) > 1:
            pictures = ' on val' if self.chosen_on_val else ' on these pictures, which flatters it'
            # what is proved goes before a gain on val
            text += f' Best of {compared} methods{"" if gain.is_proved and self.chosen_on_val else pictures}:'
        scores = f'{self.number(control + gain.mean)}, the student alone {self.number(control)}'
        text += f' {self.best.name} scores {scores}: {self.number(gain.mean, "+")}'
        if self.teacher is not None and gain.mean > 0:
            reached = control + gain.mean >= self.teacher
            share = 'no less than' if reached else f'{gain.mean / (self.teacher - control):.0%} of the way to'
            text += f', {share} the teacher ({self.number(self.teacher)})'
        if gain.low is None or gain.high is None:
            seeds = 'One seed' if gain.n == 1 else f'{gain.n} seeds with the same difference'
            return f'{text}. {seeds} cannot tell a gain from chance: train more.'
        interval = f'{gain.n} seeds, 95 % interval {self.number(gain.low, "+")} to {self.number(gain.high, "+")}'
        return f'{text}. {("This may be", "The difference is more than")[gain.is_significant]} chance ({interval}).'

    def number(self, value: float, sign: str = '') -> str:
        return f'{value:{sign}.{self.digits}f}'


def judge(rows: Sequence[Row], teacher: float | None = None, digits: int = 2) -> Verdict:
    """Return rows with their gains, and the verdict over the methods among them.

    A significant gain goes before the others, and among these more seeds; then the larger gain on val. Where the scores
    are those of val, or no run has one on val, the gain itself chooses, and the sentence says that this flatters it.
    """
    gains = holm({row.name: paired_gain(row.scores, row.control.scores) for row in rows if row.control})
    rows = tuple(replace(row, gain=gains.get(row.name)) for row in rows)
    compared = [(row, row.gain) for row in rows if row.gain]
    test_is_val = any(result.get('test_is_val') for row in rows for result in row.results.values())
    on_val = {row.name: row.gain_on_val() for row, _ in compared}
    chosen_on_val = not test_is_val and any(map(math.isfinite, on_val.values()))
    choosing = on_val if chosen_on_val else {row.name: gain.mean for row, gain in compared}
    ranks = [(gain.is_proved, 0 if gain.is_proved else gain.n, choosing[row.name]) for row, gain in compared]
    best, gain = compared[ranks.index(max(ranks))] if ranks else (None, None)
    used = best and gain and (gain.is_proved or (choosing[best.name] > 0 and not gain.is_significant))
    student = best.name if best and used else CONTROL
    teacher = None if teacher is None or math.isnan(teacher) else teacher
    return Verdict(rows, best, student, chosen_on_val, teacher, digits)


def judge_results(results: Mapping[str, Results]) -> Verdict:
    """Return the verdict on results by name and seed: those of the teacher, the student alone and the methods."""
    control, teacher = (Row(name, results.get(name, {})) for name in (CONTROL, TEACHER))
    alone = [name for name in results if name == TEACHER or is_alone(name)]
    rows = [Row(name, by_seed, None if name in alone else control) for name, by_seed in results.items()]
    return judge(rows, teacher.mean)


def judge_set(verdict: Verdict, split: str, scale: float) -> Verdict:
    """Return the verdict on a further test set; scores are its metric times a scale."""

    def row_on_set(row: Row) -> Row:
        results = {seed: {**row.results[seed], 'score': scale * score} for seed, score in row.metric_on(split).items()}
        return replace(row, results=results, control=row.control and row_on_set(row.control))

    return judge([row_on_set(row) for row in verdict.rows], digits=verdict.digits)


def missing_sentence(runs: Iterable[Any]) -> str:
    """Return which runs have no score and why, by their titles; empty if all have one."""
    reasons: dict[str, list[str]] = {}
    for run in runs:
        result, state = run.result, run.state
        unfinished = f'failed: {state["failed"]}' if 'failed' in state else 'not finished' if state else 'not begun'
        if not result or not math.isfinite(result['score']):
            reasons.setdefault('diverged' if result else unfinished, []).append(run.title)
    texts = '; '.join(f'{some(titles)} ({reason})' for reason, titles in reasons.items())
    return f'Gains count the seeds at which both runs have a score. Without one: {texts}.' if texts else ''
