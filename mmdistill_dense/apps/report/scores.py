"""What a reader asks first: did it help, how sure is that, and what did it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from mmdistill_dense.apps.report.predictions import Use
from mmdistill_dense.apps.report.runs import Log, TrainedRun
from mmdistill_dense.apps.report.section import Missing, Numbers, Section, Table, legend_of
from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.rows import Gain, Summary, changed_data, holm, paired_gain, summarise
from mmdistill_dense.utils.validate import some


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
    values: Mapping[TrainedRun, float]  # the score of each run that has one
    teacher: float | None  # that of the teacher, if it is known
    what: str  # the metric and the split
    fractions: bool  # whether the scores lie between 0 and 1; otherwise they are in percent
    # where the runs were evaluated last. Empty for scores on the test split, which a suite writes when a training is
    # over, and whose lengths it chose.
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
        name = numbers.chosen or (f'Scores ({numbers.scored})' if numbers.scored else 'Scores')
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


_FEW = 3  # seeds
_CLOSE = 4.0  # points: with teachers as close as that our students gained nothing (docs/results.md, six pairs)


def answer_section(numbers: Numbers, uses: Mapping[str, Use] | None = None) -> Section:
    """Return the answer in words, a row for each network and a chart of the metric."""
    answer = Answer(numbers, uses or {})
    section = Section('scores', 'Did it help, and what did it cost?', lead=answer.sentences())
    section.attempt(answer.table)
    section.note = answer.note()
    section.attempt(lambda: numbers.metric_chart(numbers.metric))
    section.legend = legend_of(numbers.comparison)
    if numbers.comparison.teacher is None and numbers.metric:
        section.reasons.append("The teacher's score is left out: its folder (in a suite: teacher/) holds no log.")
    return section


class Answer:
    """Scores, gains over the control at the same seeds, and ``uses``: what the networks that were run cost."""

    def __init__(self, numbers: Numbers, uses: Mapping[str, Use] | None = None) -> None:
        self.numbers, self.comparison, self.uses = numbers, numbers.comparison, uses or {}
        self.found = scores_of(numbers)
        self.scores, self.teacher = self.found.values, self.found.teacher
        self.digits = 3 if self.found.fractions else 2
        pairs = [(run, self._paired(run)) for run in self.comparison.runs if run in self.scores]
        self.apart = [run for run, control in pairs if control and not self.found.comparable(run, control)]
        self.gains = self._gains()

    def sentences(self) -> list[str]:
        """Return whether the best method helped, how sure that is, its cost, and what cannot be compared."""
        known = {name: gain for name, gain in self.gains.items() if gain}
        if changed := self._changed_data():
            return [changed]
        if not known:
            return self._not_compared()
        best = max(known, key=lambda name: (math.isfinite(known[name].mean), known[name].mean))
        gain = known[best]
        alone = fmean(self._alone(best)[seed] for seed in gain.each)
        several = f' Best of {len(known)} methods:' if len(known) > 1 else ''
        scores = f'{self._number(alone + gain.mean)}, {self._alone_title(best)} {self._number(alone)}'
        said = f'{_verdict(gain)}{several} {best} scores {scores}: {self._number(gain.mean, "+")}'
        return [
            f'{said}{self._way(alone, gain.mean)}. {self._trust(gain)}',
            *self._reason(alone, gain.mean),
            self._cost(best),
            self._next(gain),
            *self._not_compared(),
        ]

    def table(self) -> Table:
        if not self.scores:
            raise Missing('No score: the runs logged no evaluation, and there is no result.json.')
        rows = [self._row(name) for name in self.comparison.names]
        if self.teacher is not None:
            rows.insert(0, [TEACHER, '', self._number(self.teacher), '', ''])
        head = ['network', 'seeds', 'score', 'gain', 'step']
        if self.found.places:
            head.append('last evaluation')
            places = [self._places(name) for name in self.comparison.names]
            rows = [[*row, place] for row, place in zip(rows, [''] * (len(rows) - len(places)) + places, strict=True)]
        if self.uses:
            head += ['parameters', 'a picture']
            rows = [[*row, *self._use(row[0])] for row in rows]
        return Table(self.found.what, head, rows)

    def note(self) -> str:
        said = 'Gain: over the control at the same seeds. Step: time of a training step over the control’s.'
        if not self.uses:
            return said
        count = torch.get_num_threads()
        threads = '1 thread' if count == 1 else f'{count} threads'
        return f'{said} A picture: time of one validation picture on the CPU that wrote this page, {threads}.'

    def _use(self, name: str) -> list[str]:
        use = self.uses.get(name)
        return [f'{use.parameters / 1e6:.2f} M', f'{use.milliseconds:.0f} ms'] if use else ['', '']

    def _way(self, alone: float, gain: float) -> str:
        """Return how far a gain leads to the teacher."""
        if self.teacher is None or gain <= 0:
            return ''
        if alone + gain >= self.teacher:
            return f', no less than the teacher ({self._number(self.teacher)})'
        return f', {gain / (self.teacher - alone):.0%} of the way to the teacher ({self._number(self.teacher)})'

    def _reason(self, alone: float, gain: float) -> list[str]:
        """Return a likely reason if a distilled student is no better than the student alone."""
        ahead = None if self.teacher is None else (100 if self.digits == 3 else 1) * (self.teacher - alone)
        if ahead is None or gain > 0 or ahead >= _CLOSE:
            return []
        found = 'no better' if ahead <= 0 else f'only {ahead:.1f} points better'
        told = f'The teacher is {found} than the student alone, which may be the reason: '
        return [f'{told}train it longer, or take another.']

    def _row(self, name: str) -> list[str]:
        all_runs = self.comparison.of(name)
        runs = [run for run in all_runs if run in self.scores]
        seeds = ', '.join('drawn' if run.seed is None else str(run.seed) for run in runs)
        ratio = self._ratio(all_runs[0])
        gain = self._gain(name) if runs and name in self.gains else ''
        spread = self._spread(summarise([self.scores[run] for run in runs]))
        return [name, seeds, spread, gain, f'{ratio:.2f} x' if ratio else '']

    def _ratio(self, run: TrainedRun) -> float | None:
        """Return the time of a training step over the control's, as the runs logged it."""
        control = self.comparison.control_of(run)
        own, alone = self.numbers.logs[run].seconds, self.numbers.logs[control].seconds if control else None
        return own / alone if own and alone else None

    def _gains(self) -> dict[str, Gain | None]:
        names = dict.fromkeys(run.name for run in self.comparison.runs if not run.further)
        fair = {name: [run for run in self.comparison.of(name) if run not in self.apart] for name in names}
        return holm({name: paired_gain(self._by_seed(runs), self._alone(name)) for name, runs in fair.items()})

    def _alone_title(self, name: str) -> str:
        """Return what a method is compared with; of several controls of its suite, how that one was chosen."""
        run = self.comparison.of(name)[0]
        if not any(one.further and one.suite == run.suite for one in self.comparison.runs):
            return 'the student alone'
        chosen = self.comparison.controls_for(run)[0]
        row = '' if chosen.name == CONTROL else f' ({chosen.name})'
        same = any((one.result or {}).get('test_is_val') for one in self.scores) or bool(self.found.places)
        where = 'these validation pictures, which flatters it' if same else 'val'
        return f'the better student alone{row}, chosen on {where},'

    def _alone(self, name: str) -> dict[int, float]:
        return self._by_seed(self.comparison.controls_for(self.comparison.of(name)[0]))

    def _paired(self, run: TrainedRun) -> TrainedRun | None:
        same = [one for one in self.comparison.controls_for(run) if one.seed == run.seed and run.seed is not None]
        return next((one for one in same if one in self.scores), None)

    def _changed_data(self) -> str:
        """Return which runs saw other labels than the rest; empty if none did."""
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for number, run in enumerate(self.comparison.students):
            found.setdefault(run.name, {})[number if run.seed is None else run.seed] = run.result or {}
        return changed_data(found)

    def _not_compared(self) -> list[str]:
        """Return which runs have no gain because they, or their controls, stopped early or are of another length."""
        pairs = [(run, control) for run in self.apart if (control := self._paired(run))]
        places = self.found.places
        listed = some(f'{a.title} ({places[a]}) with {b.title} ({places[b]})' for a, b in pairs)
        if not listed:
            return []
        return [
            f'Not compared: {listed}. Both must have ended, and their last evaluations must be at the same point. Let '
            'a training that stopped go on with --resume, or give runs of one length.'
        ]

    def _places(self, name: str) -> str:
        runs = [run for run in self.comparison.of(name) if run in self.found.places]
        return ', '.join(dict.fromkeys(str(self.found.places[run]) for run in runs))

    def _by_seed(self, runs: list[TrainedRun]) -> dict[int, float]:
        """Return the scores of runs with a known seed; others cannot be paired."""
        return {run.seed: self.scores[run] for run in runs if run.seed is not None and run in self.scores}

    def _trust(self, gain: Gain) -> str:
        if gain.low is None or gain.high is None:
            seeds = 'One seed' if gain.n == 1 else f'{gain.n} seeds with the same difference'
            return f'{seeds} cannot tell a gain from chance: train more.'
        interval = f'{gain.n} seeds, 95 % interval {self._number(gain.low, "+")} to {self._number(gain.high, "+")}'
        return f'{"The difference is more than chance" if gain.told_apart else "This may be chance"} ({interval}).'

    def _cost(self, name: str) -> str:
        ratio = self._ratio(self.comparison.of(name)[0])
        said = f'A training step took {ratio:.2f} times as long as for the student alone. ' if ratio else ''
        student, teacher = self.uses.get(name), self.uses.get(TEACHER)
        than = ''
        if student and teacher:
            smaller, faster = (
                large / small
                for large, small in (
                    (teacher.parameters, student.parameters),
                    (teacher.milliseconds, student.milliseconds),
                )
            )
            than = f' It has {smaller:.1f} times fewer parameters than the teacher, and is {faster:.1f} times as fast.'
        return f'{said}In use it costs nothing more: the checkpoint is the plain student.{than}'

    def _next(self, gain: Gain) -> str:
        if gain.told_apart and gain.mean > 0:
            return 'Next: use it (mmdistill predict), or export it (mmdistill export).'
        if gain.n < _FEW:
            return 'Next: more seeds tell whether it is chance: write seeds: [0, 1, 2] into suite.yaml, and run again.'
        if gain.mean > 0:
            return 'Next: a longer training or more seeds.'
        return 'Next: another method, a smaller weight, or a better teacher (docs/choosing.md).'

    def _spread(self, summary: Summary | None) -> str:
        if summary is None:
            return 'none yet'
        return self._number(summary.mean) + (f' ± {self._number(summary.sd)}' if summary.sd is not None else '')

    def _gain(self, name: str) -> str:
        gain = self.gains[name]
        if gain is None:
            apart = any(run.name == name for run in self.apart)
            return 'not compared, see above' if apart else 'no control of its seed'
        said = self._number(gain.mean, '+')
        if gain.low is None or gain.high is None:
            return said
        return f'{said} [{self._number(gain.low, "+")}, {self._number(gain.high, "+")}]'

    def _number(self, value: float, sign: str = '') -> str:
        return f'{value:{sign}.{self.digits}f}'


def _verdict(gain: Gain) -> str:
    if gain.told_apart:
        return 'Yes.' if gain.mean > 0 else 'No.'
    return 'Perhaps.' if gain.mean > 0 else 'No sign of it.'  # also of a diverged run
