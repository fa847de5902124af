"""The first section of a report: whether distillation helped, how certain that is, and its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from mmdistill_dense.apps.report.predictions import NetworkCost
from mmdistill_dense.apps.report.runs import Log, TrainedRun, val_set
from mmdistill_dense.apps.report.section import Missing, Numbers, Section, Sheet, gain_sheet, legend_of
from mmdistill_dense.apps.suite.definition import CONTROL, TEACHER, is_alone
from mmdistill_dense.apps.suite.table import changed_data, gain_cell, score_cell
from mmdistill_dense.apps.suite.verdict import Gain, Results, Row, Verdict, judge, missing_sentence
from mmdistill_dense.config.values import falls
from mmdistill_dense.utils.validate import some

MIN_TEACHER_LEAD = 4.0  # points: with a smaller lead our students gained nothing (docs/results.md, six pairs)
_MIN_RATIO = 1.1  # a smaller ratio is not reported as a difference


@dataclass(frozen=True)
class EvalPoint:
    """Where in its training a run was evaluated last. ``of`` is the whole length, ``None`` if it is not known."""

    unit: str
    at: float
    of: float | None = None

    def matches(self, other: EvalPoint) -> bool:
        """Tell whether two trainings are over and were evaluated at the same point; mmengine evaluates at the end."""
        ended = all(point.of is None or point.at >= point.of for point in (self, other))
        return ended and (self.unit, self.at) == (other.unit, other.at)

    def __str__(self) -> str:
        return f'{self.unit} {self.at:.0f}' + (f' of {self.of:.0f}' if self.of is not None else '')


@dataclass(frozen=True)
class Scores:
    values: Mapping[TrainedRun, float]  # the score of each run that has one
    teacher: float | None  # that of the teacher, if it is known
    caption: str  # the metric and the split
    fractions: bool  # whether the scores lie between 0 and 1; otherwise they are in percent
    # where the runs were evaluated last. Empty for scores on the test split, which a suite writes when a training is
    # over, and whose lengths it chose.
    points: Mapping[TrainedRun, EvalPoint] = field(default_factory=dict)


def scores_of(numbers: Numbers) -> Scores:
    """Return the scores on the test split, or those of the last evaluations if a finished run has no test score."""
    metric, chosen, comparison = str(numbers.metric), numbers.chosen, numbers.comparison
    tested = {run: score for run in comparison.students if (score := _test_score(run, chosen)) is not None}
    logged = {run: [*log.metrics[metric].values()][-1] for run, log in numbers.logs.items() if metric in log.metrics}
    # a run of a suite without a result is not finished
    lacking = [run.title for run in logged if run not in tested and (not run.suite or run.result)]
    if tested and not lacking:
        teacher = _test_score(comparison.teacher, chosen) if comparison.teacher else None
        name = chosen or (f'Scores ({numbers.suite_metric})' if numbers.suite_metric else 'Scores')
        fractions = chosen is not None and _fractional(tested)  # a suite's own score is in percent
        split = 'validation' if any(run.result.get('test_is_val') for run in tested) else 'test'
        _check_same_metric(list(tested), chosen)
        return Scores(tested, teacher, f'{name} on the {split} split, last checkpoint', fractions)
    caption = f'{metric} of the last evaluation, val split'
    if tested:
        caption += f' (no test score: {some(lacking)})'
    points = {run: _point(run, numbers.logs[run], metric) for run in logged}
    return Scores(logged, numbers.teacher_score(metric), caption, _fractional(logged), points)


def _check_same_metric(runs: Sequence[TrainedRun], chosen: str | None) -> None:
    """Refuse results of several metrics or splits on one page, as suites may have them."""
    splits = {True: 'validation pictures', False: 'test pictures'}
    for key, words in {'metric': {}, 'test_is_val': splits}.items():
        results = [(run.title, run.result.get(key)) for run in runs if chosen is None or key != 'metric']
        titles = {value: title for title, value in results if value is not None}
        if len(titles) > 1:
            listing = ', '.join(f'{title} by {words.get(value, value)}' for value, title in titles.items())
            raise ValueError(f'The runs were scored differently ({listing}): write a page for each suite.')


def _test_score(run: TrainedRun, chosen: str | None) -> float | None:
    """Return the score in a run's ``result.json``, or the metric that the reader has chosen."""
    score = run.result.get('score') if chosen is None else _test_metrics(run.result).get(chosen)
    return None if score is None else float(score)


def _test_metrics(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return (result.get('metrics') or {}).get('test') or {}


def _fractional(scores: Mapping[TrainedRun, float]) -> bool:
    return all(abs(score) <= 1 for score in scores.values() if math.isfinite(score))


def _in_percent(result: Mapping[str, Any]) -> bool:
    """Tell whether a score is a metric times 100, as of box AP in a suite: 0.8 is then a score in percent."""
    score = float(result.get('score') or 0.0)
    return any(value and math.isclose(score, 100 * value) for value in _test_metrics(result).values())


def _point(run: TrainedRun, log: Log, metric: str) -> EvalPoint:
    step = max(log.metrics[metric])
    loop = run.config.get('train_cfg') or {}
    if 'max_epochs' in loop or ('max_iters' not in loop and log.epochs):
        return EvalPoint('epoch', log.epochs.get(step, step), loop.get('max_epochs'))
    return EvalPoint('iteration', step, loop.get('max_iters'))


def answer_section(answer: Answer) -> Section:
    """Return the answer in words, a row for each network and a chart of the metric."""
    numbers = answer.numbers
    section = Section('scores', 'Did it help, and what did it cost?', lead=answer.sentences())
    for part in (answer.table, answer.further_sets, answer.class_precisions):
        section.attempt(part)
    section.note = 'Gain: over the control at the same seeds. '
    section.note += 'Step: time of a step with its loading, over the control’s.'
    if answer.costs:
        threads = f'{(count := torch.get_num_threads())} thread{"s" if count > 1 else ""}'
        section.note += f' A picture: its pass through the network, on the CPU that wrote this page, {threads}.'
    section.attempt(lambda: numbers.metric_chart(numbers.metric))
    section.legend = legend_of(numbers.comparison)
    if numbers.comparison.teacher is None and numbers.metric:
        lacks = 'its folder (in a suite: teacher/) holds no log of these pictures, or there are several'
        section.reasons.append(f"The teacher's score is left out: {lacks}.")
    return section


class Answer:
    """Scores, the verdict over methods and controls of the same seeds, and the ``costs`` of networks."""

    def __init__(self, numbers: Numbers, costs: Mapping[str, NetworkCost] | None = None) -> None:
        self.numbers, self.comparison, self.costs = numbers, numbers.comparison, costs or {}
        self.evaluation = evaluation = scores_of(numbers)
        self.scores = {run: score for run, score in evaluation.values.items() if math.isfinite(score)}
        points = evaluation.points
        pairs = ((run, self._paired(run)) for run in self.comparison.runs if run in points and run in self.scores)
        self.unpaired = {run: control for run, control in pairs if control and not points[run].matches(points[control])}
        facts: dict[str, Any] = {'test_is_val': True} if points else {}
        facts |= {'metric': numbers.chosen} if numbers.chosen else {}
        results = {run: {**run.result, **facts, 'score': score} for run, score in evaluation.values.items()}
        self.results = {name: self._by_seed(self.comparison.runs_of(name), results) for name in self.comparison.names}
        self.data_change = changed_data(self.results, self.comparison.teacher is None)
        self.verdict = self._judge(results)

    def _by_seed(self, runs: Sequence[TrainedRun], results: Mapping[TrainedRun, Any]) -> Results:
        """Return the results of runs by seed; a drawn seed, and one that stands twice, has a number below 0."""
        by_seed: dict[int, Any] = {}
        for number, run in enumerate(self.comparison.students):
            if run in runs and run in results:
                by_seed[-1 - number if run.seed is None or run.seed in by_seed else run.seed] = results[run]
        return by_seed

    def _judge(self, results: Mapping[TrainedRun, Any]) -> Verdict:
        """Return the verdict on results; runs whose trainings cannot be compared have no control."""
        rows = []
        for name in self.comparison.names:
            runs, control = self.comparison.runs_of(name), None
            alone = runs[0].suite and is_alone(runs[0].home.name)  # of older suites also at other rates
            if runs[0] in self.comparison.runs and not alone and not self.data_change:
                seeds = {run.seed for run in self.unpaired if run.name == name}
                controls = [run for run in self.comparison.controls_for(runs[0]) if run.seed not in seeds]
                control = Row(CONTROL, self._by_seed(controls, results))
            rows.append(Row(name, self._by_seed(runs, results), control))
        return judge(rows, self.evaluation.teacher, 3 if self.evaluation.fractions else 2)

    def sentences(self) -> list[str]:
        """Return whether the best method helped, how sure that is, its cost, and what cannot be compared."""
        if self.data_change:
            return [self.data_change]
        if self.numbers.metric and falls(self.numbers.metric):
            return [f'No verdict: {self.numbers.metric} falls as a network gets better. Choose another by --metric.']
        verdict = self.verdict
        missing = missing_sentence(run for run in self.comparison.students if run.suite and run not in self.scores)
        if verdict.best is None or verdict.gain is None:
            return [*filter(None, [self._not_compared(), missing])]
        name, gain, score = verdict.best.name, verdict.gain, verdict.control_score
        hints = [self._teacher_hint(score, gain), self._val_set_hint(name), self._cost(name)]
        mismatches = self._not_compared() if self.unpaired else ''
        step = self._next_step(name, score, gain)
        return [*filter(None, [verdict.sentence(), missing, *hints, f'Next: {step}.', mismatches])]

    def table(self) -> Sheet:
        if not self.scores:
            raise Missing('No score: the runs logged no evaluation, and there is no result.json.')
        rows = [self._row(name) for name in self.comparison.names]
        if self.evaluation.teacher is not None:
            rows.insert(0, {'network': TEACHER, 'score': self.verdict.number(self.evaluation.teacher)})
        for row in rows:
            if use := self.costs.get(row['network']):
                row |= {'parameters': f'{use.parameters / 1e6:.2f} M', 'a picture': f'{use.milliseconds:.0f} ms'}
        head = list(dict.fromkeys(title for row in reversed(rows) for title in row))  # the teacher's row lacks some
        return Sheet(self.evaluation.caption, head, [[row.get(title, '') for title in head] for row in rows])

    def further_sets(self) -> Sheet | None:
        """Return scores and gains on a suite's further test sets."""
        sets: dict[str, dict[TrainedRun, Any]] = {}
        results = {run: run.result for run in self.scores if run.result}
        scale = 100 if any(map(_in_percent, results.values())) else 1  # a score of 0 does not tell
        for run, result in results.items():
            for split, values in (result.get('metrics') or {}).items():
                if split not in ('val', 'test') and result.get('metric') in values:
                    score = scale * values[result['metric']]
                    sets.setdefault(split, {})[run] = {**result, 'score': score}
        sets = {name: results for name, results in sets.items() if not changed_data(self.results, False, name)}
        verdicts = [self._judge(results) for results in sets.values()]
        rows = []
        for name in self.comparison.names:
            cells = [_cells(verdict.row(name), verdict.digits) for verdict in verdicts]
            rows.append([name, *(f'{score} ({gain})' if gain else score for score, gain in cells)])
        return Sheet('Other test sets: score and gain', ['network', *sets], rows) if sets else None

    def class_precisions(self) -> Sheet | None:
        """Return the AP of each class of a detector, as its suite tested it, and what the best method gains."""
        best = self.verdict.best
        if best is None or best.control is None or best.gain is None:
            return None
        groups = [[_test_metrics(row.results[seed]) for seed in best.gain.by_seed] for row in (best.control, best)]
        common = set.intersection(*(set(test) for tests in groups for test in tests))
        keys = [key for key in groups[0][0] if key.endswith('_precision') and key in common]
        means = [[100 * fmean(test[key] for test in tests) for key in keys] for tests in groups]
        names = [key.partition('/')[2].removesuffix('_precision') for key in keys]
        scores = zip(names, *means, strict=True)
        return gain_sheet('AP of each class', [best.control.name, best.name], scores)

    def _row(self, name: str) -> dict[str, str]:
        runs, row = self.comparison.runs_of(name), self.verdict.row(name)
        seeds = ', '.join('drawn' if run.seed is None else str(run.seed) for run in runs if run in self.scores)
        score, gain = _cells(row, self.verdict.digits)
        if row.scores and row.control and not row.gain:
            is_unpaired = any(run.name == name for run in self.unpaired)
            gain = 'not compared, see above' if is_unpaired else 'no control of its seed'
        ratio = self._ratio(runs[0])
        step = f'{ratio:.2f} x' if ratio else ''
        cells = {'network': name, 'seeds': seeds, 'score': score or 'none yet', 'gain': gain, 'step': step}
        if points := self.evaluation.points:
            cells['last evaluation'] = ', '.join(dict.fromkeys(str(points[run]) for run in runs if run in points))
        return cells

    def _ratio(self, run: TrainedRun) -> float | None:
        """Return the time of a training step over the control's, as the runs logged it."""
        control = self.comparison.control_of(run)
        seconds, reference = self.numbers.logs[run].seconds, self.numbers.logs[control].seconds if control else None
        return seconds / reference if seconds and reference else None

    def _paired(self, run: TrainedRun) -> TrainedRun | None:
        controls = [] if run.seed is None else self.comparison.controls_for(run)
        return next((control for control in controls if control.seed == run.seed and control in self.scores), None)

    def _not_compared(self) -> str:
        """Return which runs have no gain: they, or their controls, stopped early or differ in length, or in seed."""
        points = self.evaluation.points
        mismatches = some(f'{a.title} ({points[a]}) with {b.title} ({points[b]})' for a, b in self.unpaired.items())
        if not mismatches:
            ended = [run for run in self.comparison.runs if run in self.scores and not run.suite]
            controls = {run: self.comparison.controls_for(run) for run in ended}
            titles = some(a.title for a, b in controls.items() if b and a.seed not in {run.seed for run in b} - {None})
            advice = 'Give both configs the same randomness=dict(seed=0), and train again'
            return f'Not compared: {titles}: no control has the same seed. {advice}.' if titles else ''
        rule = 'Both must have ended, and their last evaluations must be at the same point'
        advice = 'Let a training that stopped go on with --resume, or give runs of one length'
        return f'Not compared: {mismatches}. {rule}. {advice}.'

    def _teacher_hint(self, baseline: float, gain: Gain) -> str:
        scale = 100 if self.evaluation.fractions else 1
        ahead = math.inf if self.evaluation.teacher is None else scale * (self.evaluation.teacher - baseline)
        if gain.mean > 0 or not ahead < MIN_TEACHER_LEAD:  # NaN of a diverged run
            return ''
        relation = 'no better' if ahead <= 0 else f'only {ahead:.1f} points better'
        reason = f'The teacher is {relation} than the student alone, which may be the reason'
        return f'{reason}: train it longer, or take another.'

    def _val_set_hint(self, name: str) -> str:
        run = self.comparison.runs_of(name)[0]
        control = self.comparison.controls_for(run)[0]
        same = val_set(run) == val_set(control) or (run.suite is not None and run.suite == control.suite)
        note = f'val_dataloader of {run.title} and {control.title} names other pictures or folders (see the settings)'
        return '' if same else f'{note}: the difference is a gain only if both hold the same pictures.'

    def _cost(self, name: str) -> str:
        ratio = self._ratio(self.comparison.runs_of(name)[0])
        sentence = f'A training step took {ratio:.2f} times as long as for the student alone. ' if ratio else ''
        sentence += 'In use it costs nothing more: the checkpoint is the plain student.'
        student, teacher = self.costs.get(name), self.costs.get(TEACHER)
        if student and teacher:
            smaller, faster = teacher.parameters / student.parameters, teacher.milliseconds / student.milliseconds
            parts = [f'{smaller:.1f} times fewer parameters'] if smaller >= _MIN_RATIO else []
            parts += [f'{faster:.1f} times its speed'] if faster >= _MIN_RATIO else []
            sentence += f' Compared with the teacher it has {" and ".join(parts)}.' if parts else ''
            sentence += f' It takes {1 / faster:.1f} times as long as the teacher.' if faster <= 1 / _MIN_RATIO else ''
        return sentence

    def _next_step(self, name: str, baseline: float, gain: Gain) -> str:
        run = self.comparison.runs_of(name)[0]
        names = [name, *(control.name for control in self.comparison.controls_for(run))]
        if all(network in self.costs and self.costs[network].one_class for network in names):
            return 'train longer: both students predict one class everywhere on the pictures below'
        if baseline == 0 == gain.mean:
            return 'train longer: both students score 0'
        if gain.is_proved:
            return 'use it (mmdistill predict), or export it (mmdistill export)'
        if gain.n < 3:
            suite = 'write seeds: [0, 1, 2] into suite.yaml, and run again'
            runs = 'train both with further seeds, each in one folder of work dirs seed0, seed1, seed2'
            return f'more seeds tell whether it is chance: {suite if run.suite else runs}'
        if gain.mean > 0:
            return 'a longer training or more seeds'
        return 'another method, a smaller weight, or a better teacher (docs/choosing.md)'


def _cells(row: Row, digits: int) -> tuple[str, str]:
    """Return score and gain as a suite's table writes them, empty without."""
    return score_cell(row, digits) if row.scores else '', gain_cell(row, '', digits) if row.gain else ''
