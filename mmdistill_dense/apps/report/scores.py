"""The first section of a report: whether distillation helped, how certain that is, and its cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

import torch

from mmdistill_dense.apps.report.predictions import NetworkCost
from mmdistill_dense.apps.report.runs import Comparison, TrainedRun, val_set
from mmdistill_dense.apps.report.section import Section, Sheet, gain_sheet, legend_of, metric_chart
from mmdistill_dense.apps.suite.definition import CONTROL, TEACHER, is_alone
from mmdistill_dense.apps.suite.table import changed_data, gain_cell, rows_of_sets, score_cell
from mmdistill_dense.apps.suite.verdict import Gain, Row, judge, judge_set, missing_sentence
from mmdistill_dense.config.values import falls
from mmdistill_dense.utils.validate import some

MIN_TEACHER_LEAD = 4.0  # points: with a smaller lead our students gained nothing (docs/results.md, six pairs)
_MIN_RATIO = 1.1  # a smaller ratio is not reported as a difference


class EvalPoint(NamedTuple):
    """Where in its training a run was evaluated last. ``of`` is the whole length, ``None`` if it is not known."""

    unit: str
    at: float
    of: float | None = None

    def matches(self, other: EvalPoint) -> bool:
        """Tell whether two trainings are over and were evaluated at the same point; mmengine evaluates at the end."""
        ended = all(point.of is None or point.at >= point.of for point in (self, other))
        return ended and self[:2] == other[:2]

    def __str__(self) -> str:
        return f'{self.unit} {self.at:.0f}' + (f' of {self.of:.0f}' if self.of is not None else '')


def _point(run: TrainedRun, metric: str) -> EvalPoint:
    step, epochs, loop = max(run.log.metrics[metric]), run.log.epochs, run.config.get('train_cfg') or {}
    if 'max_epochs' in loop or ('max_iters' not in loop and epochs):
        return EvalPoint('epoch', epochs.get(step, step), loop.get('max_epochs'))
    return EvalPoint('iteration', step, loop.get('max_iters'))


def _test_metrics(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return (result.get('metrics') or {}).get('test') or {}


class Answer:
    """The scores of runs, the verdict over methods and controls of the same seeds, and the ``costs`` of networks.

    The metric is the one that the reader chose, else a suite's, else mIoU or box AP, else the first. Its scores are
    those on the test split, or those of the last evaluations if a finished run has no test score.
    """

    def __init__(self, comparison: Comparison, chosen: str | None = None) -> None:
        self.comparison, runs = comparison, comparison.students
        self.costs: Mapping[str, NetworkCost] = {}
        metrics = list(dict.fromkeys(name for run in runs for name in run.log.metrics))
        if chosen is not None and chosen not in metrics:
            raise ValueError(f'metric={chosen!r} was not logged by any run. Logged: {", ".join(metrics) or "nothing"}')
        suite_metrics = [run.result.get('metric') for run in (comparison.teacher, *runs) if run]
        suite_metric = next((name for name in suite_metrics if name in metrics), None)
        main_metric, usual = chosen or suite_metric, ('mIoU', 'coco/bbox_mAP', 'pascal_voc/mAP')
        self.metrics = sorted(metrics, key=lambda name: (name != main_metric, name not in usual))
        self.metric = self.metrics[0] if self.metrics else None

        def test_score(run: TrainedRun | None) -> float | None:
            result = run.result if run else {}
            score = result.get('score') if chosen is None else _test_metrics(result).get(chosen)
            return None if score is None else float(score)

        facts: dict[str, Any] = {'metric': chosen} if chosen else {}
        scores = {run: score for run in runs if (score := test_score(run)) is not None}
        logged = {run: run.log.metrics[self.metric] for run in runs if self.metric in run.log.metrics}
        # a run of a suite without a result is not finished
        lacking = [run.title for run in logged if run not in scores and (not run.suite or run.result)]
        if scores and not lacking:
            self.teacher = test_score(comparison.teacher)
            name = chosen or (f'Scores ({suite_metric})' if suite_metric else 'Scores')
            split = 'validation' if any(run.result.get('test_is_val') for run in scores) else 'test'
            splits = {True: 'validation pictures', False: 'test pictures'}
            for key in ('test_is_val',) if chosen else ('metric', 'test_is_val'):  # suites may differ in them
                titles = {run.result[key]: run.title for run in scores if run.result.get(key) is not None}
                if len(titles) > 1:
                    listing = ', '.join(f'{title} by {splits.get(value, value)}' for value, title in titles.items())
                    raise ValueError(f'The runs were scored differently ({listing}): write a page for each suite.')
            self.caption = f'{name} on the {split} split, last checkpoint'
            self.is_metric = chosen is not None  # a suite's own score is in percent
            results = {run: {**run.result, **facts, 'score': score} for run, score in scores.items()}
        else:
            self.caption = f'{self.metric} of the last evaluation, val split'
            self.caption += f' (no test score: {some(lacking)})' if scores else ''
            self.teacher = comparison.teacher_score(self.metric)
            self.is_metric, results = True, dict[TrainedRun, dict[str, Any]]()
            for run, series in logged.items():  # a suite, which chose their lengths, tests when a training is over
                facts |= {'title': run.title, 'point': _point(run, str(self.metric)), 'test_is_val': True}
                results[run] = {**run.result, **facts, 'score': [*series.values()][-1]}
        self.scores = {run: result['score'] for run, result in results.items() if math.isfinite(result['score'])}
        self.fractions = self.is_metric and all(abs(score) <= 1 for score in self.scores.values())
        self.unpaired: dict[tuple[str, int], str] = {}
        rows = list(self._rows(results))
        self.changes = changed_data({row.name: row.results for row in rows}, comparison.teacher is None)
        rows = [replace(row, control=None) for row in rows] if '' in self.changes else rows
        self.verdict = judge(rows, self.teacher, 3 if self.fractions else 2)

    def _rows(self, results: Mapping[TrainedRun, Any]) -> Iterator[Row]:
        """Yield the row of each network; its control has no seeds at which both were evaluated at other points."""
        for name in self.comparison.names:
            runs = self.comparison.runs_of(name)
            row = Row(name, self._by_seed(runs, results))
            alone = runs[0].suite and is_alone(runs[0].home.name)  # of older suites also at other rates
            if runs[0] in self.comparison.controls or alone:
                yield row
                continue
            controls = self._by_seed(self.comparison.controls_for(runs[0]), results)
            for seed in sorted(row.scores.keys() & Row(CONTROL, controls).scores.keys()):
                run, control = row.results[seed], controls[seed]
                if 'point' in run and not run['point'].matches(control['point']):
                    texts = [f'{result["title"]} ({result["point"]})' for result in (run, controls.pop(seed))]
                    self.unpaired[name, seed] = ' with '.join(texts)
            yield replace(row, control=Row(CONTROL, controls))

    def _by_seed(self, runs: Sequence[TrainedRun], results: Mapping[TrainedRun, Any]) -> dict[int, Any]:
        """Return the results of runs by seed; a drawn seed, and one that stands twice, has a number below 0."""
        by_seed: dict[int, Any] = {}
        for number, run in enumerate(self.comparison.students):
            if run in runs and run in results:
                by_seed[-1 - number if run.seed is None or run.seed in by_seed else run.seed] = results[run]
        return by_seed

    def section(self) -> Section:
        """Return the answer in words, a row for each network and a chart of the metric."""
        section = Section('scores', 'Did it help, and what did it cost?', lead=self.sentences())
        for part in (self.table, self.further_sets, self.class_precisions):
            section.attempt(part)
        section.note = 'Gain: over the control at the same seeds. '
        section.note += 'Step: time of a step with its loading, over the control’s.'
        if self.costs:
            threads = f'{(count := torch.get_num_threads())} thread{"s" if count > 1 else ""}'
            section.note += f' A picture: its pass through the network, on the CPU that wrote this page, {threads}.'
        section.attempt(lambda: metric_chart(self.comparison, self.metric))
        section.legend = legend_of(self.comparison)
        if self.comparison.teacher is None and self.metric:
            lacks = 'its folder (in a suite: teacher/) holds no log of these pictures, or there are several'
            section.reasons.append(f"The teacher's score is left out: {lacks}.")
        return section

    def table(self) -> Sheet:
        if not self.scores:
            raise ValueError('No score: the runs logged no evaluation, and there is no result.json.')
        rows = [self._row(name) for name in self.comparison.names]
        if self.teacher is not None:
            rows.insert(0, {'network': TEACHER, 'score': self.verdict.number(self.teacher)})
        for row in rows:
            if use := self.costs.get(row['network']):
                row |= {'parameters': f'{use.parameters / 1e6:.2f} M', 'a picture': f'{use.milliseconds:.0f} ms'}
        head = list(dict.fromkeys(title for row in reversed(rows) for title in row))  # the teacher's row lacks some
        return Sheet(self.caption, head, [[row.get(title, '') for title in head] for row in rows])

    def _row(self, name: str) -> dict[str, str]:
        runs, row = self.comparison.runs_of(name), self.verdict.row(name)
        seeds = ', '.join('drawn' if run.seed is None else str(run.seed) for run in runs if run in self.scores)
        digits = self.verdict.digits
        score = score_cell(row, digits) if row.scores else 'none yet'
        gain = gain_cell(row, '', digits) if row.gain else ''
        if row.scores and row.control and not row.gain:
            is_unpaired = name in {name for name, _ in self.unpaired}
            gain = 'not compared, see above' if is_unpaired else 'no control of its seed'
        step = f'{ratio:.2f} x' if (ratio := self._ratio(name)) else ''
        cells = {'network': name, 'seeds': seeds, 'score': score, 'gain': gain, 'step': step}
        points = [str(result['point']) for result in row.results.values() if 'point' in result]
        return cells | ({'last evaluation': ', '.join(dict.fromkeys(points))} if points else {})

    def _ratio(self, name: str) -> float | None:
        """Return the time of a training step over the control's, as the first runs logged it."""
        run = self.comparison.runs_of(name)[0]
        control = self.comparison.control_of(run)
        seconds, reference = run.log.seconds, control.log.seconds if control else None
        return seconds / reference if seconds and reference else None

    def further_sets(self) -> Sheet | None:
        """Return scores and gains on a suite's further test sets."""
        results = [run.result for run in self.scores]
        splits = dict.fromkeys(split for result in results for split in result.get('metrics') or ())
        names = [split for split in splits if split not in ('val', 'test', *self.changes)]
        names = [name for name in names if any(row.metric_on(name) for row in self.verdict.rows)]
        # a score that is a metric times 100, as of box AP, is in percent; one of 0 does not tell
        tests = ((result.get('score', 0.0), value) for result in results for value in _test_metrics(result).values())
        in_percent = any(value and math.isclose(score, 100 * value) for score, value in tests)
        scale = 100.0 if in_percent and not self.is_metric else 1.0
        rows = rows_of_sets([judge_set(self.verdict, name, scale) for name in names], mark='')
        return Sheet('Other test sets: score and gain', ['network', *names], rows) if names else None

    def class_precisions(self) -> Sheet | None:
        """Return the AP of each class of a detector, as its suite tested it, and what the best method gains."""
        best = self.verdict.best
        if best is None or best.control is None or best.gain is None:
            return None
        pair = [[_test_metrics(row.results[seed]) for seed in best.gain.by_seed] for row in (best.control, best)]
        keys = [key for key in pair[0][0] if key.endswith('_precision')]
        means = [[100 * fmean(test.get(key, math.nan) for test in tests) for key in keys] for tests in pair]
        names = [key.partition('/')[2].removesuffix('_precision') for key in keys]
        return gain_sheet('AP of each class', [best.control.name, best.name], zip(names, *means, strict=True))

    def sentences(self) -> list[str]:
        """Return whether the best method helped, how sure that is, its cost, and what cannot be compared."""
        if '' in self.changes:
            return [self.changes['']]
        if self.metric and falls(self.metric):
            return [f'No verdict: {self.metric} falls as a network gets better. Choose another by --metric.']
        verdict = self.verdict
        missing = missing_sentence(run for run in self.comparison.students if run.suite and run not in self.scores)
        if verdict.best is None or verdict.gain is None:
            return [*filter(None, [self._not_compared(), missing])]
        run, gain, score = self.comparison.runs_of(verdict.best.name)[0], verdict.gain, verdict.control_score
        hints = [self._teacher_hint(score, gain), self._val_set_hint(run), self._cost(run.name)]
        mismatches = self._not_compared() if self.unpaired else ''
        step = self._next_step(run, score, gain)
        return [*filter(None, [verdict.sentence(), missing, *hints, f'Next: {step}.', mismatches])]

    def _not_compared(self) -> str:
        """Return which runs have no gain: they, or their controls, stopped early or differ in length, or in seed."""
        if not self.unpaired:
            ended = [run for run in self.comparison.runs if run in self.scores and not run.suite]
            controls = {run: self.comparison.controls_for(run) for run in ended}
            titles = some(a.title for a, b in controls.items() if b and a.seed not in {run.seed for run in b} - {None})
            advice = 'Give both configs the same randomness=dict(seed=0), and train again'
            return f'Not compared: {titles}: no control has the same seed. {advice}.' if titles else ''
        rule = 'Both must have ended, and their last evaluations must be at the same point'
        advice = 'Let a training that stopped go on with --resume, or give runs of one length'
        return f'Not compared: {some(self.unpaired.values())}. {rule}. {advice}.'

    def _teacher_hint(self, baseline: float, gain: Gain) -> str:
        ahead = math.inf if self.teacher is None else (100 if self.fractions else 1) * (self.teacher - baseline)
        if gain.mean > 0 or not ahead < MIN_TEACHER_LEAD:  # NaN of a diverged run
            return ''
        relation = 'no better' if ahead <= 0 else f'only {ahead:.1f} points better'
        reason = f'The teacher is {relation} than the student alone, which may be the reason'
        return f'{reason}: train it longer, or take another.'

    def _val_set_hint(self, run: TrainedRun) -> str:
        control = self.comparison.controls_for(run)[0]
        same = val_set(run) == val_set(control) or (run.suite is not None and run.suite == control.suite)
        note = f'val_dataloader of {run.title} and {control.title} names other pictures or folders (see the settings)'
        return '' if same else f'{note}: the difference is a gain only if both hold the same pictures.'

    def _cost(self, name: str) -> str:
        ratio, student, teacher = self._ratio(name), self.costs.get(name), self.costs.get(TEACHER)
        sentence = f'A training step took {ratio:.2f} times as long as for the student alone. ' if ratio else ''
        sentence += 'In use it costs nothing more: the checkpoint is the plain student.'
        if student and teacher:
            smaller, faster = teacher.parameters / student.parameters, teacher.milliseconds / student.milliseconds
            parts = [f'{smaller:.1f} times fewer parameters'] if smaller >= _MIN_RATIO else []
            parts += [f'{faster:.1f} times its speed'] if faster >= _MIN_RATIO else []
            sentence += f' Compared with the teacher it has {" and ".join(parts)}.' if parts else ''
            sentence += f' It takes {1 / faster:.1f} times as long as the teacher.' if faster <= 1 / _MIN_RATIO else ''
        return sentence

    def _next_step(self, run: TrainedRun, baseline: float, gain: Gain) -> str:
        names = [run.name, *(control.name for control in self.comparison.controls_for(run))]
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
