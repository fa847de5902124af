"""The rows of a suite's table, from the results of its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import CONTROL, TEACHER, Definition, Method, describe_options, is_alone
from mmdistill_dense.apps.suite.verdict import (
    Candidate,
    Gain,
    Summary,
    Verdict,
    judge,
    missing_reason,
    missing_sentence,
    summarise,
)

Results = Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    name: str
    results: Results
    missing: tuple[int, ...] = ()  # the seeds without a score
    gain: Gain | None = None  # the gain over the control; ``None`` for the teacher and the control

    @property
    def scores(self) -> dict[int, float]:
        """The scores in percent, by seed; a diverged run has none."""
        scores = {seed: result['score'] for seed, result in sorted(self.results.items())}
        return {seed: score for seed, score in scores.items() if math.isfinite(score)}

    @property
    def on_val(self) -> dict[int, float]:
        """The same metric on val, by seed, as far as runs have it; NaN is none."""
        values = {seed: plan.value_on_val(result) for seed, result in self.results.items()}
        return {seed: value for seed, value in values.items() if value is not None and math.isfinite(value)}

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

    def row(self, name: str) -> Row:
        """Return a row by its name; an empty one if there is none."""
        return next((row for row in self.rows if row.name == name), Row(name, {}))

    @property
    def verdict(self) -> Verdict:
        return judge_rows(self.rows)

    def sentences(self) -> list[str]:
        """Return what the comparison says, and which runs it lacks."""
        runs = [run for run in plan.scored_runs(self.definition) if run.seed not in self.row(run.name).scores]
        missing = {run.title: missing_reason(self.row(run.name).results.get(run.seed), run.state) for run in runs}
        return list(filter(None, [self.verdict.sentence(), missing_sentence(missing)]))


def collect(definition: Definition) -> SuiteTable:
    """Return the table of the finished runs; refuse runs of other configs, label files or numbers of processes."""
    results, counts = plan.results(definition), dict[int, dict[str, None]]()
    plan.check_unchanged(
        definition, (run for run in plan.scored_runs(definition) if run.seed in results.get(run.name, {}))
    )
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
    rows = [Row(name, by_seed) for name, by_seed in results.items()]
    gains = judge_rows(rows).gains
    planned = {row.name: () if row.name == TEACHER else seeds for row in rows}
    missing = {row.name: tuple(seed for seed in planned[row.name] if seed not in row.scores) for row in rows}
    return tuple(replace(row, missing=missing[row.name], gain=gains.get(row.name)) for row in rows)


def judge_rows(rows: Sequence[Row]) -> Verdict:
    """Return the verdict over the methods among some rows."""
    by_name = {row.name: row for row in rows}
    control, teacher = by_name.get(CONTROL, Row(CONTROL, {})), by_name.get(TEACHER, Row(TEACHER, {})).summary
    candidates = [
        Candidate(row.name, row.scores, control.scores, row.on_val, control.on_val) for row in rows if row.compared
    ]
    test_is_val = any(result.get('test_is_val') for row in rows for result in row.results.values())
    return judge(candidates, test_is_val, teacher.mean if teacher else None)


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
    if method.pretraining is not None:
        options += f', pre-trained by {method.pretraining.config}{describe_options(method.pretraining.options)}'
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
