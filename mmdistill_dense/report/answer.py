"""What a reader asks first: did it help, and what did it cost?"""

from __future__ import annotations

import math
from statistics import fmean

from mmdistill_dense.report.charts import legend_of
from mmdistill_dense.report.numbers import Numbers
from mmdistill_dense.report.scores import scores_of
from mmdistill_dense.report.section import Missing, Section, Table
from mmdistill_dense.report.settings import step_ratio
from mmdistill_dense.report.trained_run import TrainedRun
from mmdistill_dense.suite.plan.runs import TEACHER
from mmdistill_dense.suite.table.paired import Gain, Summary, holm, paired_gain, summarise
from mmdistill_dense.utils.messages import some

_CLOSE = 4.0  # points: with teachers as close as that our students gained nothing (docs/results.md, six pairs)


def answer_section(numbers: Numbers) -> Section:
    """Return the answer in words, the table of scores and a chart of the metric; charts of other metrics are folded."""
    answer = Answer(numbers)
    section = Section('scores', 'Did it help, and what did it cost?', lead=answer.sentences())
    section.attempt(answer.table)
    section.attempt(numbers.metric_charts)
    section.items, section.more = section.items[:2], section.items[2:]
    section.legend = legend_of(numbers.comparison)
    if numbers.comparison.teacher is None and numbers.metric:
        section.reasons.append(
            "The teacher's score is left out: the folder of its checkpoint (in a suite: teacher/) holds no log."
        )
    return section


class Answer:
    """The scores of a comparison, the gains over the control at the same seeds, and the cost of a training step."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers, self.comparison = numbers, numbers.comparison
        self.found = scores_of(numbers)
        self.scores, self.teacher = self.found.values, self.found.teacher
        self.digits = 3 if self.found.fractions else 2
        self.apart = [run for run in self.comparison.runs if run in self.scores and not self._fair(run)]
        self.gains = self._gains()

    def sentences(self) -> list[str]:
        """Return whether the best method helped, how sure that is, its cost, and what cannot be compared.

        Nothing without a control.
        """
        known = {name: gain for name, gain in self.gains.items() if gain}
        if not known:
            return self._not_compared()
        best = max(known, key=lambda name: (math.isfinite(known[name].mean), known[name].mean))
        gain = known[best]
        alone = fmean(self._alone(best)[seed] for seed in gain.each)
        several = f' Best of {len(known)} methods:' if len(known) > 1 else ''
        scores = f'{self._number(alone + gain.mean)}, the student alone {self._number(alone)}'
        said = f'{_verdict(gain)}{several} {best} scores {scores}: {self._number(gain.mean, "+")}'
        return [
            f'{said}{self._way(alone, gain.mean)}. {self._trust(gain)}',
            *self._reason(alone, gain.mean),
            self._cost(best),
            *self._not_compared(),
        ]

    def table(self) -> Table:
        """Return the table of scores."""
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
        said = f'{self.found.what}. Gain: over the control at the same seeds. Step: time of a training step over its.'
        return Table(said, head, rows)

    def _way(self, alone: float, gain: float) -> str:
        """Return how far a gain leads to the teacher."""
        if self.teacher is None or gain <= 0:
            return ''
        if alone + gain >= self.teacher:
            return f', no less than the teacher ({self._number(self.teacher)})'
        return f', {gain / (self.teacher - alone):.0%} of the way to the teacher ({self._number(self.teacher)})'

    def _reason(self, alone: float, gain: float) -> list[str]:
        points = 100 if self.digits == 3 else 1
        teacher = None if self.teacher is None else points * self.teacher
        reason = why_no_gain(teacher, points * alone, points * (alone + gain))
        return [reason] if reason else []

    def _row(self, name: str) -> list[str]:
        all_runs = self.comparison.of(name)
        runs = [run for run in all_runs if run in self.scores]
        seeds = ', '.join('drawn' if run.seed is None else str(run.seed) for run in runs)
        ratio = step_ratio(all_runs[0], self.numbers)
        gain = '' if all_runs[0] in self.comparison.controls or not runs else self._gain(name)
        spread = self._spread(summarise([self.scores[run] for run in runs]))
        return [name, seeds, spread, gain, f'{ratio:.2f} x' if ratio else '']

    def _gains(self) -> dict[str, Gain | None]:
        """Return the gain of each method, tested together."""
        names = dict.fromkeys(run.name for run in self.comparison.runs)
        fair = {name: [run for run in self.comparison.of(name) if run not in self.apart] for name in names}
        return holm({name: paired_gain(self._by_seed(runs), self._alone(name)) for name, runs in fair.items()})

    def _alone(self, name: str) -> dict[int, float]:
        """Return the scores of a method's controls."""
        return self._by_seed(self.comparison.controls_for(self.comparison.of(name)[0]))

    def _paired(self, run: TrainedRun) -> TrainedRun | None:
        """Return the control of a run's seed, if it has a score."""
        same = [one for one in self.comparison.controls_for(run) if one.seed == run.seed and run.seed is not None]
        return next((one for one in same if one in self.scores), None)

    def _fair(self, run: TrainedRun) -> bool:
        control = self._paired(run)
        return control is None or self.found.comparable(run, control)

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
        """Return where the runs of a method were evaluated last."""
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
        ratio = step_ratio(self.comparison.of(name)[0], self.numbers)
        said = f'A training step took {ratio:.2f} times as long as for the student alone. ' if ratio else ''
        return f'{said}In use it costs nothing more: the checkpoint is the plain student.'

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
        """Format with two decimals, or three for scores between 0 and 1."""
        return f'{value:{sign}.{self.digits}f}'


def why_no_gain(teacher: float | None, alone: float, distilled: float) -> str | None:
    """Return a likely reason if a distilled student is no better than the student alone, ``None`` without one.

    Args:
        teacher: Its score in percent, if known.
        alone: That of the student alone.
        distilled: That of the distilled student.
    """
    if teacher is None or distilled > alone or teacher - alone >= _CLOSE:
        return None
    found = 'no better' if teacher <= alone else f'only {teacher - alone:.1f} points better'
    return f'The teacher is {found} than the student alone, which may be the reason: train it longer, or take another.'


def _verdict(gain: Gain) -> str:
    if gain.told_apart:
        return 'Yes.' if gain.mean > 0 else 'No.'
    return 'Perhaps.' if gain.mean > 0 else 'No sign of it.'  # also of a diverged run
