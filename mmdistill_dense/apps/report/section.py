"""The parts of a page: sections with tables, pictures, and curves as plotly figures, whose colours the page sets."""

import base64
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from mmdistill_dense.apps.inspect.drawing import shrink
from mmdistill_dense.apps.report.runs import Comparison, Log, Series, TrainedRun, read_log, teacher_files
from mmdistill_dense.apps.suite.definition import TEACHER
from mmdistill_dense.utils.validate import message_of

QUALITY = 82  # of WebP: label colours stay apart, a picture of 640 pixels takes about 30 kB
SIDE = 640  # longest side of a picture on the page
COLOURS = 8  # for methods in style.css; control and teacher have their own
_DASHES = {'solid': 'solid', 'dash': 'dashed', 'dot': 'dotted'}  # plotly's names and those of CSS
_LAYOUT = dict(margin=dict(l=48, r=12, t=8, b=40), hovermode='closest', font=dict(size=12), showlegend=False)


class Missing(ValueError):
    """A part that cannot be made. The message says why, and what it needs."""


@dataclass(frozen=True)
class Chart:
    title: str
    alt: str  # for screen readers
    figure: str  # of plotly, as JSON


@dataclass(frozen=True)
class Sheet:
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]  # of text; the first cell of a row is its name


@dataclass(frozen=True)
class Panel:
    """A picture."""

    caption: str
    alt: str  # for screen readers
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Strip:
    """Panels side by side under a title."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Key:
    """A CSS colour and its meaning. ``line`` is the CSS style of a line, empty for an area."""

    colour: str
    meaning: str
    line: str = ''


Item = Chart | Sheet | Strip


@dataclass
class Section:
    """A part of the page."""

    name: str  # the anchor
    title: str
    note: str = ''  # how to read it
    items: list[Item] = field(default_factory=list)
    legend: list[Key] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # what is left out, and why
    lead: list[str] = field(default_factory=list)  # the answer in words, before all else

    def attempt(self, part: Callable[[], Item | Sequence[Item] | None]) -> None:
        """Add the result of a function, or the reason why it failed."""
        try:
            content = part()
        except Exception as error:  # data or checkpoints may be gone, and a network's code may raise anything
            self.reasons.append(message_of(error).strip())
        else:
            self.items.extend(content if isinstance(content, Sequence) else [content] if content else [])


def gain_sheet(caption: str, names: Sequence[str], scores: Iterable[tuple[str, float, float]]) -> Sheet | None:
    """Return two networks' scores of each class with the gain, the largest first; ``None`` without any but NaN."""
    finite = (entry for entry in scores if math.isfinite(entry[1] + entry[2]))  # NaN: the truth lacks the class
    ranked = sorted(finite, key=lambda entry: entry[1] - entry[2])
    rows = [[name, f'{control:.1f}', f'{method:.1f}', f'{method - control:+.1f}'] for name, control, method in ranked]
    return Sheet(caption, ['class', *names, 'gain'], rows) if rows else None


def panel(image: np.ndarray, caption: str, alt: str) -> Panel:
    """Return a panel of a picture (H, W, 3), RGB uint8. A large picture is made smaller."""
    image = shrink(image, SIDE)
    done, data = cv2.imencode('.webp', np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not done:
        raise RuntimeError('opencv could not write a WebP picture')
    source = 'data:image/webp;base64,' + base64.b64encode(data.tobytes()).decode('ascii')
    return Panel(caption, alt, source, image.shape[1], image.shape[0])


# Curves


def colour_of(comparison: Comparison, name: str) -> tuple[str, str]:
    """Return the CSS variable and the dash of a method, which are the same in all charts."""
    if name in {run.name for run in comparison.controls}:
        return 'control', 'solid'
    if name == TEACHER:
        return 'teacher', 'dash'
    index = list(dict.fromkeys(run.name for run in comparison.runs)).index(name)
    return f'run-{index % COLOURS}', list(_DASHES)[index // COLOURS % len(_DASHES)]


def line_chart(
    title: str, comparison: Comparison, lines: Mapping[TrainedRun, Series], levels: Mapping[str, float] | None = None
) -> Chart:
    """Return values over iterations, a line per run. ``levels`` are constants by name, such as the teacher's score."""
    figure, drawn_names = graph_objects().Figure(), set[str]()
    for run, series in lines.items():
        colour, dash = colour_of(comparison, run.name)
        stride = -(-len(series) // 400)  # at most 400 points; the newest stays
        steps = list(series)[::-stride][::-1]
        values = [float(f'{y:.5g}') if math.isfinite(y) else None for y in map(series.__getitem__, steps)]
        style = dict(mode='lines+markers' if len(steps) < 20 else 'lines', marker=dict(size=5))
        line = dict(width=2 if run.name not in drawn_names else 1.2, dash=dash)
        figure.add_scatter(
            x=steps, y=values, name=run.title, legendgroup=run.name, line=line, meta=dict(colour=colour), **style
        )
        drawn_names.add(run.name)
    span = [step for series in lines.values() for step in series] or [0, 1]
    for name, value in (levels or {}).items():
        trace = dict(mode='lines', line=dict(width=1.5, dash='dash'), meta=dict(colour='teacher'))
        figure.add_scatter(x=[min(span), max(span)], y=[value, value], name=name, **trace)
    figure.update_layout(template='none', height=280, **_LAYOUT)
    figure.update_xaxes(title_text='iteration')
    ends = [f'{run.title} ends at {[*series.values()][-1]:.4g}' for run, series in lines.items()]
    ends += [f'{name} at {value:.4g}' for name, value in (levels or {}).items()]
    return Chart(title, f'Line chart of {title} over iterations: {"; ".join(ends)}.', figure.to_json())


def legend_of(comparison: Comparison) -> list[Key]:
    keys = {name: colour_of(comparison, name) for name in dict.fromkeys([*comparison.names, TEACHER])}
    return [Key(f'var(--{colour})', name, _DASHES[dash]) for name, (colour, dash) in keys.items()]


def graph_objects() -> Any:
    """Import plotly, which only this page needs."""
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise ImportError("a report needs plotly: pip install 'mmdistill_dense[report]'") from error
    return go


class Numbers:
    """Reads the logs once; compares by ``metric``, else by a suite's, else by mIoU or box AP, else by the first."""

    def __init__(self, comparison: Comparison, metric: str | None = None) -> None:
        self.comparison, self.chosen = comparison, metric
        self.logs: dict[TrainedRun, Log] = {run: read_log(run.folder) for run in comparison.students}
        self.teacher_log = read_log(comparison.teacher.folder) if comparison.teacher else None
        metrics = list(dict.fromkeys(name for log in self.logs.values() for name in log.metrics))
        if metric is not None and metric not in metrics:
            raise ValueError(f'metric={metric!r} was not logged by any run. Logged: {", ".join(metrics) or "nothing"}')
        results = [run.result for run in (comparison.teacher, *comparison.students) if run]
        self.suite_metric = next((result['metric'] for result in results if result.get('metric') in metrics), None)
        main_metric, usual = metric or self.suite_metric, ('mIoU', 'coco/bbox_mAP', 'pascal_voc/mAP')
        self.metrics = sorted(metrics, key=lambda name: (name != main_metric, name not in usual))
        self.metric = self.metrics[0] if self.metrics else None

    def metric_chart(self, name: str | None) -> Chart:
        """Return the chart of a metric, with the teacher's last score as a level."""
        if name is None:
            raise Missing('No chart of a metric: no evaluation was logged.')
        lines = {run: log.metrics[name] for run, log in self.logs.items() if name in log.metrics}
        score = self.teacher_score(name)
        levels = {} if score is None else {TEACHER: score}
        return line_chart(f'{name}, val split', self.comparison, lines, levels)

    def teacher_score(self, metric: str) -> float | None:
        """Return the teacher's score on val at the checkpoint that taught, else at its last evaluation."""
        teacher, log = self.comparison.teacher, self.teacher_log
        if teacher is None or log is None or metric not in log.metrics:
            return None
        series, ends = log.metrics[metric], {at: last for last, at in log.epochs.items()}
        for file in teacher_files(self.comparison.students):
            match = re.search(r'(iter|epoch)_(\d+)$', file.stem)
            if match and file.parent == teacher.folder:
                step = float(match[2]) if match[1] == 'iter' else ends.get(float(match[2]), float(match[2]))
                if step in series:
                    return series[step]
        return [*series.values()][-1]

    def curves(self) -> Section:
        """Return a chart of each further metric, of each term of the loss and of the distillers' shares."""
        section = Section('curves', 'Curves', 'A term that only one method has is drawn for that method alone.')
        # CocoMetric logs a metric of each class if it is asked for them
        section.items += [self.metric_chart(name) for name in self.metrics[1:] if not name.endswith('_precision')]
        logged = dict.fromkeys(name for log in self.logs.values() for name in log.terms)
        names = [name for name in logged if 'loss' in name or name.endswith('.share')]
        # the total first, then the task's terms, the distillers' terms and their shares
        order = {name: (name != 'loss', name.endswith('.share'), name.startswith('distill.')) for name in names}
        for name in sorted(names, key=order.__getitem__):
            lines = {run: log.terms[name] for run, log in self.logs.items() if name in log.terms}
            section.items.append(line_chart('loss (all terms)' if name == 'loss' else name, self.comparison, lines))
        section.legend = legend_of(self.comparison)
        if not names:
            section.reasons.append('No loss was logged: vis_data/scalars.json is empty.')
        return section
