"""The rows of a suite's table: means, paired gains and their intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from scipy.special import stdtr, stdtrit  # scipy.stats.t takes seconds to import

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import CONTROL, TEACHER, Definition, Method, describe_options, is_alone

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
    def half(self) -> float | None:
        return None if self.high is None else self.high - self.mean

    @property
    def is_significant(self) -> bool:
        """Whether the mean differs from 0, at the level of :data:`LEVEL` for the whole table."""
        return self.p is not None and self.p <= 1 - LEVEL


def summarise(values: Sequence[float]) -> Summary | None:
    """Return mean and standard deviation, ``None`` for no values; of a diverged run both are ``nan``."""
    if not values:
        return None
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Summary(1, mean, None)
    return Summary(n, mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))


def paired_gain(scores: Mapping[int, float], control: Mapping[int, float]) -> Gain | None:
    """Return the mean difference at the same seed with ``mean +- t_{(1 + LEVEL) / 2, n - 1} sd / sqrt(n)``."""
    # a run and its control share first weights and the order of the data, so differences have less noise than scores;
    # one pair has no bounds, nor have differences that are all equal, as those of rounded scores: they tell no noise
    differences = {seed: scores[seed] - control[seed] for seed in sorted(scores) if seed in control}
    summary = summarise(list(differences.values()))
    if summary is None:
        return None
    if summary.sd is None:
        return Gain(differences, summary.mean)
    mean, error, freedom = summary.mean, summary.sd / math.sqrt(summary.n), summary.n - 1
    if summary.sd <= _EQUAL * max(map(abs, [*scores.values(), *control.values()])):
        return Gain(differences, mean, summary.sd)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    p = float(2 * stdtr(freedom, -abs(mean) / error))
    return Gain(differences, mean, summary.sd, mean - half, mean + half, 1.0 if math.isnan(p) else p)


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


Results = Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    name: str
    results: Results
    missing: tuple[int, ...] = ()  # the seeds that have not finished
    gain: Gain | None = None  # the gain over the control; ``None`` for the teacher and the control

    @property
    def scores(self) -> dict[int, float]:
        """The scores in percent, by seed."""
        return {seed: result['score'] for seed, result in sorted(self.results.items())}

    @property
    def compared(self) -> bool:
        """Whether it is a method, and neither the teacher nor the student alone."""
        return self.name != TEACHER and not is_alone(self.name)

    @property
    def summary(self) -> Summary | None:
        return summarise(list(self.scores.values()))

    @property
    def hashes(self) -> list[str]:
        """The distinct config hashes. :func:`collect` refuses a row with several."""
        return sorted({str(result['config_hash']) for result in self.results.values()})

    @property
    def seconds_per_iteration(self) -> float | None:
        """The median of each run, averaged over the runs."""
        times = (result.get('seconds_per_iteration') for result in self.results.values())
        medians = [seconds for seconds in times if seconds is not None]
        return fmean(medians) if medians else None


@dataclass(frozen=True)
class SuiteTable:
    """A suite's table: teacher, control and methods."""

    definition: Definition
    rows: tuple[Row, ...]

    @property
    def methods(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.compared)

    def row(self, name: str) -> Row:
        """Return a row by its name; an empty one if there is none."""
        return next((row for row in self.rows if row.name == name), Row(name, {}))


def collect(definition: Definition) -> SuiteTable:
    """Return the table of the finished runs; refuse runs of other configs, label files or numbers of processes."""
    results, counts = plan.results(definition), dict[int, dict[str, None]]()
    plan.check_unchanged(definition, (run for run in plan.runs(definition) if run.seed in results.get(run.name, {})))
    for name, seeds in results.items():
        for result in seeds.values():
            if name != TEACHER and 'processes' in result:
                counts.setdefault(result['processes'], {})[name] = None
    if len(counts) > 1:
        groups = '; '.join(f'{", ".join(names)}: {count}' for count, names in counts.items())
        raise ValueError(
            f'runs with different numbers of processes, and so different batches, cannot share a table ({groups}). '
            'Move the folders of one number away, and repeat them.'
        )
    for problem in (changed_data(results), *(changed_data(results, False, name) for name in definition.test_sets)):
        if problem:
            raise ValueError(problem)
    row_results = {name: results.get(name, {}) for name in (TEACHER, CONTROL, *definition.methods)}
    return SuiteTable(definition, make_rows(row_results, definition.seeds))


def make_rows(results: Mapping[str, Results], seeds: Sequence[int]) -> tuple[Row, ...]:
    """Return a row for each name, from results by name and seed; methods have their gain over the control."""
    rows = [
        Row(name, by_seed, () if name == TEACHER else tuple(seed for seed in seeds if seed not in by_seed))
        for name, by_seed in results.items()
    ]
    control = next((row.scores for row in rows if row.name == CONTROL), {})
    gains = holm({row.name: paired_gain(row.scores, control) for row in rows if row.compared})
    return tuple(replace(row, gain=gains.get(row.name)) for row in rows)


def rows_on_set(table: SuiteTable, name: str) -> tuple[Row, ...]:
    """Return the rows with scores and gains on a further test set; runs that finished before it was named have none."""
    set_results = {
        row.name: {
            seed: {**result, 'score': plan.score_of(table.definition, result['metrics'], name)}
            for seed, result in row.results.items()
            if name in result['metrics']
        }
        for row in table.rows
    }
    return make_rows(set_results, table.definition.seeds)


def row_settings(method: Method) -> str:
    """Return in words which options and learning rate a row has of its own; empty without."""
    options = describe_options(method.options)
    return options + (f', {method.rate:g} times the learning rate' if method.rate != 1 else '')


def changed_data(results: Mapping[str, Results], teachers: bool = True, test_set: str = '') -> str:
    """Name two runs of one data set whose label files were changed between them, or two of a row with other teachers.

    Empty without any. Results of earlier versions hold no stamps of their data. A teacher that the suite trains may be
    trained again, to the same weights in another file: such ``teachers`` are not compared. With a further ``test_set``,
    that alone is compared, of students: the teacher's may have its own classes.
    """
    teachers &= not any(result.get('iterations') for result in results.get(TEACHER, {}).values())
    references: dict[str, tuple[str, str]] = {}
    for name, by_seed in results.items():
        for seed, result in by_seed.items() if not test_set or name != TEACHER else ():
            receipts = result.get('teacher') or {}
            weights = [receipt.get('sha256') for receipt in ([receipts] if 'sha256' in receipts else receipts.values())]
            teacher_stamp = {f'teacher of {name}': str(weights)} if weights and teachers else {}
            stamps = (result.get('data') or {}).items()
            stamps = {source: stamp for source, stamp in stamps if source.partition('test_sets.')[2] == test_set}
            for source, stamp in {**stamps, **teacher_stamp}.items():
                other, old_stamp = references.setdefault(source, (f'{name} seed {seed}', stamp))
                if old_stamp != stamp:
                    changed = "the teacher's weights" if source in teacher_stamp else 'label files'
                    changed = f'{source} or its label files' if source.startswith('test_sets.') else changed
                    return (
                        f'{other} and {name} seed {seed}: {changed} were changed between these runs, so their scores '
                        'cannot be compared. Undo the change, or remove the folders of the runs to repeat.'
                    )
    return ''
