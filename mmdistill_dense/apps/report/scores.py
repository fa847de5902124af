"""What a reader asks first: did it help, how sure is that, and what did it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from mmdistill_dense.apps.report.predictions import Use
from mmdistill_dense.apps.report.runs import Log, TrainedRun, val_set
from mmdistill_dense.apps.report.section import Missing, Numbers, Section, Sheet, legend_of
from mmdistill_dense.apps.suite.definition import TEACHER, is_alone
from mmdistill_dense.apps.suite.plan import mean_on_val
from mmdistill_dense.apps.suite.rows import Gain, changed_data, holm, paired_gain, summarise
from mmdistill_dense.utils.validate import some

_FEW = 3  # seeds
CLOSE = 4.0  # points: with teachers as close as that our students gained nothing (docs/results.md, six pairs)
_MORE = 1.1  # times: what is less is told as no difference


@dataclass(frozen=True)
class EvalPoint:
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
    points: Mapping[TrainedRun, EvalPoint] = field(default_factory=dict)

    def comparable(self, run: TrainedRun, other: TrainedRun) -> bool:
        """Tell whether two trainings are over and were evaluated at the same point."""
        own, its = self.points.get(run), self.points.get(other)
        if own is None or its is None:
            return True
        return own.ended and its.ended and (own.unit, own.at) == (its.unit, its.at)


def scores_of(numbers: Numbers) -> Scores:
    """Return the scores on the test split, or those of the last evaluations if a finished run has no test score."""
    metric, chosen, comparison = str(numbers.metric), numbers.chosen, numbers.comparison
    tested = {run: score for run in comparison.students if (score := _test_score(run, chosen)) is not None}
    logged = {run: log.metrics[metric].last for run, log in numbers.logs.items() if metric in log.metrics}
    # a run of a suite without a result is not finished
    lacking = [run.title for run in logged if run not in tested and (not run.suite or run.result)]
    if tested and not lacking:
        teacher = _test_score(comparison.teacher, chosen) if comparison.teacher else None
        name = chosen or (f'Scores ({numbers.scored})' if numbers.scored else 'Scores')
        fractions = _small(tested) and not any(_in_percent(run.result or {}) for run in tested if chosen is None)
        split = 'validation' if any((run.result or {}).get('test_is_val') for run in tested) else 'test'
        _check_alike(list(tested), chosen)
        return Scores(tested, teacher, f'{name} on the {split} split, last checkpoint', fractions)
    what = f'{metric} of the last evaluation, val split'
    if tested:
        what += f' (no test score: {some(lacking)})'
    points = {run: _point(run, numbers.logs[run], metric) for run in logged}
    return Scores(logged, numbers.teacher_score(metric), what, _small(logged), points)


def _check_alike(runs: Sequence[TrainedRun], chosen: str | None) -> None:
    """Refuse results of several metrics or splits on one page, as suites may have them."""
    splits = {True: 'validation pictures', False: 'test pictures'}
    for key, words in {'metric': {}, 'test_is_val': splits}.items():
        results = [(run.title, (run.result or {}).get(key)) for run in runs if chosen is None or key != 'metric']
        found = {value: title for title, value in results if value is not None}
        if len(found) > 1:
            each = ', '.join(f'{title} by {words.get(value, value)}' for value, title in found.items())
            raise ValueError(f'The runs were scored differently ({each}): write a page for each suite.')


def _test_score(run: TrainedRun, chosen: str | None) -> float | None:
    """Return the score in a run's ``result.json``, or the metric that the reader has chosen."""
    result = run.result or {}
    found = result.get('score') if chosen is None else _test_metrics(result).get(chosen)
    return None if found is None else float(found)


def _test_metrics(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return (result.get('metrics') or {}).get('test') or {}


def _small(scores: Mapping[TrainedRun, float]) -> bool:
    return all(abs(score) <= 1 for score in scores.values() if math.isfinite(score))


def _in_percent(result: Mapping[str, Any]) -> bool:
    """Tell whether a score is a metric times 100, as of box AP in a suite: 0.8 is then a score in percent."""
    score = float(result.get('score') or 0.0)
    return any(value and math.isclose(score, 100 * value) for value in _test_metrics(result).values())


def _point(run: TrainedRun, log: Log, metric: str) -> EvalPoint:
    step = log.metrics[metric].steps[-1]
    loop = run.config.get('train_cfg') or {}
    if 'max_epochs' in loop or ('max_iters' not in loop and log.epochs):
        return EvalPoint('epoch', log.epochs.get(step, step), loop.get('max_epochs'))
    return EvalPoint('iteration', step, loop.get('max_iters'))


def answer_section(numbers: Numbers, uses: Mapping[str, Use] | None = None) -> Section:
    """Return the answer in words, a row for each network and a chart of the metric."""
    answer = Answer(numbers, uses or {})
    section = Section('scores', 'Did it help, and what did it cost?', lead=answer.sentences())
    section.attempt(answer.table)
    section.attempt(answer.further_sets)
    section.note = (
        'Gain: over the control at the same seeds. Step: time of a step with its loading, over the control’s.'
    )
    if uses:
        threads = f'{(count := torch.get_num_threads())} thread{"s" if count > 1 else ""}'
        section.note += f' A picture: its pass through the network, on the CPU that wrote this page, {threads}.'
    section.attempt(lambda: numbers.metric_chart(numbers.metric))
    section.legend = legend_of(numbers.comparison)
    if numbers.comparison.teacher is None and numbers.metric:
        lacks = 'its folder (in a suite: teacher/) holds no log of these pictures, or there are several'
        section.reasons.append(f"The teacher's score is left out: {lacks}.")
    return section


def _by_seed(runs: Sequence[TrainedRun], scores: Mapping[TrainedRun, float]) -> dict[int, float]:
    """Return the scores of runs with a known seed; others cannot be paired."""
    return {run.seed: scores[run] for run in runs if run.seed is not None and run in scores}


class Answer:
    """Scores, gains over the control at the same seeds, and ``uses``: what the networks that were run cost."""

    def __init__(self, numbers: Numbers, uses: Mapping[str, Use] | None = None) -> None:
        self.numbers, self.comparison, self.uses = numbers, numbers.comparison, uses or {}
        self.found = scores_of(numbers)
        self.scores, self.teacher = self.found.values, self.found.teacher
        self.digits = 3 if self.found.fractions else 2
        pairs = {run: self._paired(run) for run in self.comparison.runs if run in self.scores}
        self.apart = {run: one for run, one in pairs.items() if one and not self.found.comparable(run, one)}
        rows = (run for run in self.comparison.runs if not (run.suite and is_alone(run.home.name)))
        names = dict.fromkeys(run.name for run in rows)
        self.fair = {name: [run for run in self.comparison.of(name) if run not in self.apart] for name in names}
        self.changed = changed_data(self._results(), self.comparison.teacher is None)
        self.gains = {} if self.changed else self._gains(self.scores)

    def _gains(self, scores: Mapping[TrainedRun, float]) -> dict[str, Gain | None]:
        """Return the gain of each method over its controls at the same seeds."""
        pairs = {
            name: (_by_seed(runs, scores), _by_seed(self._controls(name), scores)) for name, runs in self.fair.items()
        }
        return holm({name: paired_gain(own, alone) for name, (own, alone) in pairs.items()})

    def _controls(self, name: str) -> list[TrainedRun]:
        return self.comparison.controls_for(self.comparison.of(name)[0])

    def _results(self) -> dict[str, dict[int, dict[str, Any]]]:
        by_seed: dict[str, dict[int, dict[str, Any]]] = {}
        for number, run in enumerate(self.comparison.students):
            by_seed.setdefault(run.name, {})[number if run.seed is None else run.seed] = run.result or {}
        return by_seed

    def sentences(self) -> list[str]:
        """Return whether the best method helped, how sure that is, its cost, and what cannot be compared."""
        if self.changed:
            return [self.changed]
        known = {name: gain for name, gain in self.gains.items() if gain}
        if not known:
            return self._not_compared()
        best, several = self._best(known)
        gain = known[best]
        alone = fmean(_by_seed(self._controls(best), self.scores)[seed] for seed in gain.by_seed)
        scores = f'{self._number(alone + gain.mean)}, the student alone {self._number(alone)}'
        verdict = ('Yes.', 'No.') if gain.is_significant else ('Perhaps.', 'No sign of it.')
        said = f'{verdict[not gain.mean > 0]}{several} {best} scores {scores}: {self._number(gain.mean, "+")}'
        if self.teacher is not None and gain.mean > 0:  # how far it leads to the teacher
            whole = alone + gain.mean >= self.teacher
            way = 'no less than' if whole else f'{gain.mean / (self.teacher - alone):.0%} of the way to'
            said += f', {way} the teacher ({self._number(self.teacher)})'
        return [
            f'{said}. {self._trust(gain)}',
            *self._advice(alone, gain),
            *self._other_pictures(best),
            self._cost(best),
            *self._next(best, alone, gain),
        ]

    def _best(self, known: Mapping[str, Gain]) -> tuple[str, str]:
        """Return the best method, of suites that whose gain is largest on val; and of several, words that say so."""
        told, val = f' Best of {len(known)} methods', {name: self._gain_on_val(name) for name in known}
        if self._flattered() or all(one == -math.inf for one in val.values()):
            val = {name: gain.mean if math.isfinite(gain.mean) else -math.inf for name, gain in known.items()}
            told += ' on these pictures, which flatters it:'
        else:
            told += ' on val:'
        return max(val, key=val.__getitem__), told if len(known) > 1 else ''

    def _gain_on_val(self, name: str) -> float:
        """Return the mean gain of a method on val over its controls at the same seeds; -inf without scores on val."""
        both = [(run, self._paired(run)) for run in self.fair[name]]
        own, alone = (
            mean_on_val([run.result or {} for run in some if run], self.numbers.chosen)
            for some in zip(*(pair for pair in both if pair[1]), strict=True)
        )
        return own - alone if math.isfinite(own) and math.isfinite(alone) else -math.inf

    def _flattered(self) -> bool:
        """Whether the scores are of val, on which rows are chosen."""
        return any((run.result or {}).get('test_is_val') for run in self.scores) or bool(self.found.points)

    def table(self) -> Sheet:
        if not self.scores:
            raise Missing('No score: the runs logged no evaluation, and there is no result.json.')
        head = ['network', 'seeds', 'score', 'gain', 'step']
        rows = [self._row(name) for name in self.comparison.names]
        if self.teacher is not None:
            rows.insert(0, [TEACHER, '', self._number(self.teacher), '', ''])
        if points := self.found.points:
            head.append('last evaluation')
            for row in rows:
                runs = [run for run in self.comparison.of(row[0]) if run in points]
                row.append(', '.join(dict.fromkeys(str(points[run]) for run in runs)))
        if self.uses:
            head += ['parameters', 'a picture']
            for row in rows:
                use = self.uses.get(row[0])
                row += [f'{use.parameters / 1e6:.2f} M', f'{use.milliseconds:.0f} ms'] if use else ['', '']
        return Sheet(self.found.what, head, rows)

    def further_sets(self) -> Sheet | None:
        """Return scores and gains on a suite's further test sets."""
        found: dict[str, dict[TrainedRun, float]] = {}
        scale = 100 if any(_in_percent(run.result or {}) for run in self.scores) else 1  # a score of 0 does not tell
        for run in self.scores:
            result = run.result or {}
            for split, values in (result.get('metrics') or {}).items():
                if split not in ('val', 'test') and result.get('metric') in values:
                    found.setdefault(split, {})[run] = scale * values[result['metric']]
        results = self._results()
        found = {name: one for name, one in found.items() if not changed_data(results, False, name)}
        rows = [[name] for name in self.comparison.names]
        for scores in found.values():
            gains = self._gains(scores)
            for row in rows:
                own, gain = _by_seed(self.comparison.of(row[0]), scores), gains.get(row[0])
                told = f' ({self._number(gain.mean, "+")})' if gain else ''
                row.append(self._number(fmean(own.values())) + told if own else '')
        return Sheet('Other test sets: score and gain', ['network', *found], rows) if found else None

    def _row(self, name: str) -> list[str]:
        all_runs = self.comparison.of(name)
        runs = [run for run in all_runs if run in self.scores]
        seeds = ', '.join('drawn' if run.seed is None else str(run.seed) for run in runs)
        summary, ratio = summarise([self.scores[run] for run in runs]), self._ratio(all_runs[0])
        spread = self._number(summary.mean) if summary else 'none yet'
        spread += f' ± {self._number(summary.sd)}' if summary and summary.sd is not None else ''
        gain, said = self.gains.get(name), ''
        if gain:
            said = self._number(gain.mean, '+')
            bounds = [self._number(one, '+') for one in (gain.low, gain.high) if one is not None]
            said += f' [{", ".join(bounds)}]' if bounds else ''
        elif runs and name in self.gains:
            apart = any(run.name == name for run in self.apart)
            said = 'not compared, see above' if apart else 'no control of its seed'
        return [name, seeds, spread, said, f'{ratio:.2f} x' if ratio else '']

    def _ratio(self, run: TrainedRun) -> float | None:
        """Return the time of a training step over the control's, as the runs logged it."""
        control = self.comparison.control_of(run)
        own, alone = self.numbers.logs[run].seconds, self.numbers.logs[control].seconds if control else None
        return own / alone if own and alone else None

    def _paired(self, run: TrainedRun) -> TrainedRun | None:
        same = [one for one in self.comparison.controls_for(run) if one.seed == run.seed and run.seed is not None]
        return next((one for one in same if one in self.scores), None)

    def _not_compared(self) -> list[str]:
        """Return which runs have no gain: they, or their controls, stopped early or differ in length, or in seed."""
        points = self.found.points
        listed = some(f'{a.title} ({points[a]}) with {b.title} ({points[b]})' for a, b in self.apart.items())
        if not listed:
            ended = [run for run in self.comparison.runs if run in self.scores and not run.suite]
            controls = {run: self.comparison.controls_for(run) for run in ended}
            alone = some(a.title for a, b in controls.items() if b and a.seed not in {one.seed for one in b} - {None})
            way = 'Give both configs the same randomness=dict(seed=0), and train again'
            return [f'Not compared: {alone}: no control has the same seed. {way}.'] if alone else []
        told = 'Both must have ended, and their last evaluations must be at the same point'
        way = 'Let a training that stopped go on with --resume, or give runs of one length'
        return [f'Not compared: {listed}. {told}. {way}.']

    def _trust(self, gain: Gain) -> str:
        if gain.low is None or gain.high is None:
            seeds = 'One seed' if gain.n == 1 else f'{gain.n} seeds with the same difference'
            return f'{seeds} cannot tell a gain from chance: train more.'
        interval = f'{gain.n} seeds, 95 % interval {self._number(gain.low, "+")} to {self._number(gain.high, "+")}'
        return f'{"The difference is more than chance" if gain.is_significant else "This may be chance"} ({interval}).'

    def _advice(self, alone: float, gain: Gain) -> list[str]:
        """Return a likely reason if a distilled student is no better than the student alone."""
        ahead = math.inf if self.teacher is None else (100 if self.digits == 3 else 1) * (self.teacher - alone)
        if gain.mean > 0 or not ahead < CLOSE:  # NaN of a diverged run
            return []
        found = 'no better' if ahead <= 0 else f'only {ahead:.1f} points better'
        told = f'The teacher is {found} than the student alone, which may be the reason'
        return [f'{told}: train it longer, or take another.']

    def _other_pictures(self, name: str) -> list[str]:
        run, control = self.comparison.of(name)[0], self._controls(name)[0]
        same = val_set(run) == val_set(control) or (run.suite is not None and run.suite == control.suite)
        told = f'val_dataloader of {run.title} and {control.title} names other pictures or folders (see the settings)'
        return [] if same else [f'{told}: the difference is a gain only if both hold the same pictures.']

    def _cost(self, name: str) -> str:
        ratio = self._ratio(self.comparison.of(name)[0])
        said = f'A training step took {ratio:.2f} times as long as for the student alone. ' if ratio else ''
        said += 'In use it costs nothing more: the checkpoint is the plain student.'
        student, teacher = self.uses.get(name), self.uses.get(TEACHER)
        if student and teacher:
            smaller, faster = teacher.parameters / student.parameters, teacher.milliseconds / student.milliseconds
            parts = [f'{smaller:.1f} times fewer parameters'] if smaller >= _MORE else []
            parts += [f'{faster:.1f} times its speed'] if faster >= _MORE else []
            said += f' Compared with the teacher it has {" and ".join(parts)}.' if parts else ''
            said += f' It takes {1 / faster:.1f} times as long as the teacher.' if faster <= 1 / _MORE else ''
        return said

    def _next(self, name: str, alone: float, gain: Gain) -> list[str]:
        both = [name, *dict.fromkeys(run.name for run in self._controls(name))]
        if all(one in self.uses and self.uses[one].one_class for one in both):
            said = 'train longer: both students predict one class everywhere on the pictures below'
        elif alone == 0 == gain.mean:
            said = 'train longer: both students score 0'
        elif gain.is_significant and gain.mean > 0:
            said = 'use it (mmdistill predict), or export it (mmdistill export)'
        elif gain.n < _FEW:
            suite = 'write seeds: [0, 1, 2] into suite.yaml, and run again'
            plain = 'train both with further seeds, each in one folder of work dirs seed0, seed1, seed2'
            said = f'more seeds tell whether it is chance: {suite if self.comparison.of(name)[0].suite else plain}'
        elif gain.mean > 0:
            said = 'a longer training or more seeds'
        else:
            said = 'another method, a smaller weight, or a better teacher (docs/choosing.md)'
        return [f'Next: {said}.', *(self._not_compared() if self.apart else ())]

    def _number(self, value: float, sign: str = '') -> str:
        return f'{value:{sign}.{self.digits}f}'
