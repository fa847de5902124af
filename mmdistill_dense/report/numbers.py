"""The scores and curves of a page, from logs and results."""

from __future__ import annotations

from collections.abc import Mapping

from mmdistill_dense.report.charts import legend_of, level_chart, line_chart, line_of
from mmdistill_dense.report.compared_runs import Comparison, TrainedRun
from mmdistill_dense.report.logs import Log, read_log
from mmdistill_dense.report.section import Chart, Missing, Section, Table
from mmdistill_dense.suite.plan.runs import TEACHER
from mmdistill_dense.suite.table.paired import Gain, Summary, paired_gain, summarise

_FIRST = ('mIoU', 'coco/bbox_mAP', 'pascal_voc/mAP')


class Numbers:
    """Reads the logs of a comparison once. The default ``metric`` is mIoU or box AP where logged, else the first."""

    def __init__(self, comparison: Comparison, metric: str | None = None) -> None:
        self.comparison = comparison
        self.logs: dict[TrainedRun, Log] = {run: read_log(run.folder) for run in comparison.students}
        self.teacher_log = read_log(comparison.teacher.folder) if comparison.teacher else None
        found = list(dict.fromkeys(name for log in self.logs.values() for name in log.metrics))
        if metric is not None and metric not in found:
            raise ValueError(f'metric={metric!r} was not logged by any run. Logged: {", ".join(found) or "nothing"}')
        self.metrics = sorted(found, key=lambda name: (name != metric, name not in _FIRST))
        self.metric = self.metrics[0] if self.metrics else None

    # Scores

    def scores(self) -> Section:
        """Return the table of scores and a chart per metric."""
        section = Section('scores', 'Scores')
        section.attempt(self._score_table)
        section.attempt(self._metric_charts)
        section.items, section.more = section.items[:2], section.items[2:]
        section.legend = legend_of(self.comparison)
        if self.comparison.teacher is None and self.metric:
            section.reasons.append(
                "The teacher's score is left out: the folder of its checkpoint (in a suite: teacher/) holds no log."
            )
        return section

    def _score_table(self) -> Table:
        scores, what = self._scores()
        if not scores:
            raise Missing('No score: the runs logged no evaluation, and there is no result.json.')
        control = _by_seed({run: scores[run] for run in self.comparison.controls if run in scores})
        rows = [self._score_row(name, scores, control) for name in self.comparison.names]
        teacher = self._teacher_score(what)
        if teacher is not None:
            rows.insert(0, [TEACHER, '', _number(teacher, small=abs(teacher) <= 1), ''])
        return Table(what, ['network', 'seeds', 'score', 'gain over the control, same seeds'], rows)

    def _score_row(self, name: str, scores: Mapping[TrainedRun, float], control: Mapping[int, float]) -> list[str]:
        runs = [run for run in self.comparison.of(name) if run in scores]
        seeds = ', '.join('drawn' if run.seed is None else str(run.seed) for run in runs)
        own = {run: scores[run] for run in runs}
        alone = self.comparison.of(name)[0] in self.comparison.controls
        small = all(abs(score) <= 1 for score in scores.values())
        gain = '' if alone else _gain(paired_gain(_by_seed(own), control), small)
        return [name, seeds, _spread(summarise(list(own.values()))), gain]

    def _scores(self) -> tuple[dict[TrainedRun, float], str]:
        """Return the scores of the runs that have one, and a caption."""
        results = {run: run.result for run in self.comparison.students}
        tested = {
            run: float(result['score']) for run, result in results.items() if result and result.get('score') is not None
        }
        if tested:
            return tested, 'Scores of the finished runs, test split, last checkpoint'
        logged = {run: log.metrics[self.metric].last for run, log in self.logs.items() if self.metric in log.metrics}
        return logged, f'{self.metric} of the last evaluation, val split'

    def _teacher_score(self, what: str) -> float | None:
        result = self.comparison.teacher.result if self.comparison.teacher else None
        if 'test' in what:
            return result.get('score') if result else None
        log = self.teacher_log
        return log.metrics[self.metric].last if log and self.metric in log.metrics else None

    def _metric_charts(self) -> list[Chart]:
        if not self.metrics:
            raise Missing('No chart of a metric: no evaluation was logged.')
        charts = []
        for name in self.metrics:
            lines = [
                line_of(self.comparison, run, log.metrics[name])
                for run, log in self.logs.items()
                if name in log.metrics
            ]
            of_teacher = self.teacher_log.metrics.get(name) if self.teacher_log else None
            levels = {TEACHER: of_teacher.last} if of_teacher else {}
            title = f'{name}, val split'
            if any(len(line.series.steps) > 1 for line in lines):
                charts.append(line_chart(title, lines, levels, wide=name == self.metric))
            else:
                ends = {line.title: line.series.last for line in lines}
                charts.append(level_chart(f'{title}, after training', self.comparison, {**ends, **levels}))
        return charts

    # Curves

    def curves(self) -> Section:
        """Return a chart per term of the loss; other logged values are folded away."""
        section = Section('curves', 'Loss terms', 'A term that only one method has is drawn for that method alone.')
        names = list(dict.fromkeys(name for log in self.logs.values() for name in (*log.terms, *log.others)))
        for name in sorted(names, key=_order):
            lines = [
                line_of(self.comparison, run, series)
                for run, log in self.logs.items()
                if (series := log.terms.get(name) or log.others.get(name))
            ]
            where = section.items if 'loss' in name or name.endswith('.share') else section.more
            where.append(line_chart('loss (all terms)' if name == 'loss' else name, lines))
        section.legend = [key for key in legend_of(self.comparison) if key.meaning != TEACHER]
        if not names:
            section.reasons.append('No loss was logged: vis_data/scalars.json is empty.')
        return section


def _by_seed(scores: Mapping[TrainedRun, float]) -> dict[int, float]:
    """Return the scores of runs with a known seed; others cannot be paired."""
    return {run.seed: score for run, score in scores.items() if run.seed is not None}


def _order(name: str) -> tuple[bool, ...]:
    """Sort the total first, then the task's terms, the distillers' terms and their shares."""
    return (name != 'loss', name.endswith('.share'), name.startswith('distill.'), 'loss' not in name)


def _number(value: float, sign: str = '', small: bool = False) -> str:
    """Format with two decimals, or three for a score between 0 and 1."""
    return f'{value:{sign}.{3 if small else 2}f}'


def _spread(summary: Summary | None) -> str:
    if summary is None:
        return 'not evaluated'
    small = abs(summary.mean) <= 1
    return _number(summary.mean, '', small) + (f' ± {_number(summary.sd, "", small)}' if summary.sd is not None else '')


def _gain(gain: Gain | None, small: bool) -> str:
    if gain is None:
        return 'no control at the same seed'
    said = _number(gain.mean, '+', small)
    if gain.low is None or gain.high is None:
        return said
    return f'{said} (95 % interval {_number(gain.low, "+", small)} to {_number(gain.high, "+", small)})'
