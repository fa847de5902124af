"""The curves of a page: metrics and losses over a run, from the logs."""

from __future__ import annotations

from mmdistill_dense.apps.report.charts import legend_of, level_chart, line_chart, line_of
from mmdistill_dense.apps.report.logs import Log, read_log
from mmdistill_dense.apps.report.runs import Comparison, TrainedRun
from mmdistill_dense.apps.report.section import Chart, Missing, Section
from mmdistill_dense.apps.suite.plan import TEACHER

_FIRST = ('mIoU', 'coco/bbox_mAP', 'pascal_voc/mAP')


class Numbers:
    """Reads the logs of a comparison once.

    ``metric`` is the one that the reader has chosen, else mIoU or box AP where logged, else the first.
    """

    def __init__(self, comparison: Comparison, metric: str | None = None) -> None:
        self.comparison, self.chosen = comparison, metric
        self.logs: dict[TrainedRun, Log] = {run: read_log(run.folder) for run in comparison.students}
        self.teacher_log = read_log(comparison.teacher.folder) if comparison.teacher else None
        found = list(dict.fromkeys(name for log in self.logs.values() for name in log.metrics))
        if metric is not None and metric not in found:
            raise ValueError(f'metric={metric!r} was not logged by any run. Logged: {", ".join(found) or "nothing"}')
        self.metrics = sorted(found, key=lambda name: (name != metric, name not in _FIRST))
        self.metric = self.metrics[0] if self.metrics else None

    def metric_charts(self) -> list[Chart]:
        """Return a chart per metric, the compared one first."""
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


def _order(name: str) -> tuple[bool, ...]:
    """Sort the total first, then the task's terms, the distillers' terms and their shares."""
    return (name != 'loss', name.endswith('.share'), name.startswith('distill.'), 'loss' not in name)
