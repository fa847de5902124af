"""The scores that a page compares: from the test split or the last evaluations, and where each was evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmdistill_dense.report.logs import Log
from mmdistill_dense.report.numbers import Numbers
from mmdistill_dense.report.trained_run import TrainedRun
from mmdistill_dense.utils.messages import some


@dataclass(frozen=True)
class Place:
    """Where in its training a run was evaluated last. ``of`` is the whole length, ``None`` if it is not known."""

    unit: str
    at: float
    of: float | None = None

    @property
    def ended(self) -> bool:
        """Whether the training was over; mmengine always evaluates at its end."""
        return self.of is None or self.at >= self.of

    def __str__(self) -> str:
        return f'{self.unit} {self.at:.0f}' + (f' of {self.of:.0f}' if self.of is not None else '')


@dataclass(frozen=True)
class Scores:
    """The scores of a comparison.

    Attributes:
        values: The score of each run that has one.
        teacher: That of the teacher, if it is known.
        what: The metric and the split.
        fractions: Whether the scores lie between 0 and 1; otherwise they are in percent.
        places: Where the runs were evaluated last. Empty for scores on the test split, which a suite writes when a
            training is over, and whose lengths it chose.
    """

    values: Mapping[TrainedRun, float]
    teacher: float | None
    what: str
    fractions: bool
    places: Mapping[TrainedRun, Place] = field(default_factory=dict)

    def comparable(self, run: TrainedRun, other: TrainedRun) -> bool:
        """Tell whether two trainings are over and were evaluated at the same point."""
        own, its = self.places.get(run), self.places.get(other)
        if own is None or its is None:
            return True
        return own.ended and its.ended and (own.unit, own.at) == (its.unit, its.at)


def scores_of(numbers: Numbers) -> Scores:
    """Return the scores on the test split, or those of the last evaluations if a finished run has no test score."""
    metric, runs = numbers.metric, numbers.comparison.students
    tested = _known({run: _test_score(run, numbers.chosen) for run in runs})
    logged = _known({run: _last(log, metric) for run, log in numbers.logs.items()})
    # a run of a suite without a result is not finished
    lacking = [run.title for run in runs if run in logged and run not in tested and (not run.suite or run.result)]
    comparison = numbers.comparison
    if tested and not lacking:
        teacher = _test_score(comparison.teacher, numbers.chosen) if comparison.teacher else None
        name = 'Scores' if numbers.chosen is None else numbers.chosen
        fractions = _small(tested) and not any(_in_percent(run.result) for run in tested if numbers.chosen is None)
        split = 'validation' if any((run.result or {}).get('test_is_val') for run in tested) else 'test'
        return Scores(tested, teacher, f'{name} on the {split} split, last checkpoint', fractions)
    what = f'{metric} of the last evaluation, val split'
    if tested:
        what += f' (no test score: {some(lacking)})'
    places = {run: _place(run, numbers.logs[run], str(metric)) for run in logged}
    return Scores(logged, _last(numbers.teacher_log, metric), what, _small(logged), places)


def _known(found: Mapping[TrainedRun, float | None]) -> dict[TrainedRun, float]:
    return {run: score for run, score in found.items() if score is not None}


def _test_score(run: TrainedRun, chosen: str | None) -> float | None:
    """Return the score in a run's ``result.json``, or the metric that the reader has chosen."""
    result = run.result or {}
    found = result.get('score') if chosen is None else _test_metrics(result).get(chosen)
    return None if found is None else float(found)


def _test_metrics(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return (result.get('metrics') or {}).get('test') or {}


def _last(log: Log | None, metric: str | None) -> float | None:
    return log.metrics[metric].last if log and metric in log.metrics else None


def _small(scores: Mapping[TrainedRun, float]) -> bool:
    return all(abs(score) <= 1 for score in scores.values() if math.isfinite(score))


def _in_percent(result: Mapping[str, Any] | None) -> bool:
    """Tell whether a score is a metric times 100, as of box AP in a suite: 0.8 is then a score in percent."""
    score = float((result or {}).get('score') or 0.0)
    return any(value and math.isclose(score, 100 * value) for value in _test_metrics(result or {}).values())


def _place(run: TrainedRun, log: Log, metric: str) -> Place:
    step = log.metrics[metric].steps[-1]
    loop = run.config.get('train_cfg') or {}
    if 'max_epochs' in loop or ('max_iters' not in loop and log.epochs):
        return Place('epoch', log.epochs.get(step, step), loop.get('max_epochs'))
    return Place('iteration', step, loop.get('max_iters'))
