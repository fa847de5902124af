"""The parts of a page: sections with tables, pictures, and curves as plotly figures, whose colours the page sets."""

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from mmdistill_dense.apps.inspect.drawing import shrink
from mmdistill_dense.apps.report.runs import Comparison, Series, TrainedRun
from mmdistill_dense.apps.suite.definition import TEACHER
from mmdistill_dense.utils.validate import message_of

QUALITY = 82  # of WebP: label colours stay apart, a picture of 640 pixels takes about 30 kB
SIDE = 640  # longest side of a picture on the page
COLOURS = 8  # for methods in style.css; control and teacher have their own
_DASHES = {'solid': 'solid', 'dash': 'dashed', 'dot': 'dotted'}  # plotly's names and those of CSS


@dataclass(frozen=True)
class Sheet:
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]  # of text; the first cell of a row is its name


@dataclass(frozen=True)
class Panel:
    caption: str
    alt: str  # for screen readers
    source: str  # the picture, in a data URL


@dataclass(frozen=True)
class Strip:
    """Panels side by side under a title."""

    title: str
    panels: Sequence[Panel]


@dataclass
class Section:
    """A part of the page."""

    name: str  # the anchor
    title: str
    note: str = ''  # how to read it
    items: list[Any] = field(default_factory=list)  # sheets, strips, and figures of plotly
    legend: list[tuple[str, str]] = field(default_factory=list)  # the CSS style of a line or an area, and its meaning
    reasons: list[str] = field(default_factory=list)  # what is left out, and why
    lead: list[str] = field(default_factory=list)  # the answer in words, before all else

    def attempt(self, part: Callable[[], Any]) -> None:
        """Add what a function returns, one or a list of parts or ``None``; or the reason why it failed."""
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
    file = io.BytesIO()
    Image.fromarray(shrink(image, SIDE)).save(file, 'webp', quality=QUALITY)
    return Panel(caption, alt, f'data:image/webp;base64,{base64.b64encode(file.getvalue()).decode("ascii")}')


# Curves


def graph_objects() -> Any:
    """Import plotly, which only this page needs."""
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise ImportError("a report needs plotly: pip install 'mmdistill_dense[report]'") from error
    return go


def colour_of(comparison: Comparison, name: str) -> tuple[str, str]:
    """Return the CSS variable and the dash of a method, which are the same in all charts."""
    if name in {run.name for run in comparison.controls}:
        return 'control', 'solid'
    if name == TEACHER:
        return 'teacher', 'dash'
    index = list(dict.fromkeys(run.name for run in comparison.runs)).index(name)
    return f'run-{index % COLOURS}', list(_DASHES)[index // COLOURS % len(_DASHES)]


def legend_of(comparison: Comparison) -> list[tuple[str, str]]:
    keys = {name: colour_of(comparison, name) for name in dict.fromkeys([*comparison.names, TEACHER])}
    return [(f'border-top: 3px {_DASHES[dash]} var(--{colour})', name) for name, (colour, dash) in keys.items()]


def line_chart(title: str, comparison: Comparison, lines: dict[TrainedRun, Series], level: float | None = None) -> Any:
    """Return values over iterations, a line per run, and the teacher's score as a level."""
    figure, first_runs = graph_objects().Figure(), {run.name: run for run in reversed(lines)}
    ends = [f'{run.title} ends at {[*series.values()][-1]:.4g}' for run, series in lines.items()]
    for run, series in lines.items():
        colour, dash = colour_of(comparison, run.name)
        stride = -(-len(series) // 400)  # at most 400 points; the newest stays
        steps = list(series)[::-stride][::-1]
        values = [float(f'{y:.5g}') if math.isfinite(y) else None for y in map(series.__getitem__, steps)]
        line: dict[str, Any] = dict(width=2 if run == first_runs[run.name] else 1.2, dash=dash)
        style = dict(mode='lines+markers' if len(steps) < 20 else 'lines', line=line, marker=dict(size=5))
        figure.add_scatter(x=steps, y=values, name=run.title, meta=dict(colour=colour), **style)
    if level is not None:
        ends.append(f'{TEACHER} at {level:.4g}')
        steps = [step for series in lines.values() for step in series]
        line, meta = dict(width=1.5, dash='dash'), dict(colour='teacher')
        figure.add_scatter(x=[min(steps), max(steps)], y=[level] * 2, name=TEACHER, mode='lines', line=line, meta=meta)
    meta = dict(title=title, alt=f'Line chart of {title} over iterations: {"; ".join(ends)}.')
    return figure.update_layout(template='none', meta=meta)


def metric_chart(comparison: Comparison, metric: str | None) -> Any:
    """Return the chart of a metric, with the teacher's last score as a level."""
    if metric is None:
        raise ValueError('No chart of a metric: no evaluation was logged.')
    lines = {run: run.log.metrics[metric] for run in comparison.students if metric in run.log.metrics}
    return line_chart(f'{metric}, val split', comparison, lines, comparison.teacher_score(metric))


def curves_section(comparison: Comparison, metrics: Sequence[str]) -> Section:
    """Return a chart of each of some metrics, of each term of the loss and of the distillers' shares."""
    section = Section('curves', 'Curves', 'A term that only one method has is drawn for that method alone.')
    # CocoMetric logs a metric of each class if it is asked for them
    section.items += [metric_chart(comparison, name) for name in metrics if not name.endswith('_precision')]
    logged = dict.fromkeys(name for run in comparison.students for name in run.log.terms)
    names = [name for name in logged if 'loss' in name or name.endswith('.share')]
    # the total first, then the task's terms, the distillers' terms and their shares
    for name in sorted(names, key=lambda name: (name != 'loss', name.endswith('.share'), name.startswith('distill.'))):
        lines = {run: run.log.terms[name] for run in comparison.students if name in run.log.terms}
        section.items.append(line_chart('loss (all terms)' if name == 'loss' else name, comparison, lines))
    section.legend = legend_of(comparison)
    if not names:
        section.reasons.append('No loss was logged: vis_data/scalars.json is empty.')
    return section
