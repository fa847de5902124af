"""Draw each method's gain over the control, with its interval."""

from __future__ import annotations

import io
from typing import Any

from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.rows import LEVEL, Row, Table
from mmdistill_dense.apps.suite.table import TITLES

OURS, PUBLISHED, QUIET = '#1f4e79', '#c55a11', '#888888'
BELOW = 0.22  # of a line's height: the seeds are drawn below the bar


def gains_png(table: Table) -> bytes:
    """Return a PNG with a line per method, in the order of the table.

    A small dot is a seed, a large one the mean, a bar its interval, a diamond a published gain.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 + 0.42 * max(len(table.methods), 2)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axvline(0, color=QUIET, linewidth=1, zorder=0)
    for place, row in enumerate(table.methods):
        _draw_row(axes, place, row)
    pairs = [f'n = {row.gain.n}' if row.gain else 'no pair yet' for row in table.methods]
    labels = [f'{row.name} ({n})' for row, n in zip(table.methods, pairs, strict=True)]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(table.methods) - 0.4, -0.6)  # the first on top
    axes.set_xlabel(f'gain in {table.definition.metric} over the student alone, same seeds, percentage points')
    axes.set_title('\n'.join([table.definition.title, _subtitle(table)]), fontsize=10, loc='left')
    axes.grid(axis='x', color='#dddddd', linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis='y', length=0)
    if any(row.gain or _published(row) for row in table.methods):
        figure.legend(*_unique(axes), fontsize=8, frameon=False, loc='outside lower right', ncols=4)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=130, format='png')
    return picture.getvalue()


def _draw_row(axes: Any, place: int, row: Row) -> None:
    gain = row.gain
    if gain is not None:
        if gain.half is not None:
            interval = f'{LEVEL:.0%} interval'
            axes.errorbar(gain.mean, place, xerr=gain.half, color=OURS, capsize=4, fmt='none', label=interval)
        style = dict(color=OURS, linestyle='none')
        axes.plot(list(gain.each.values()), [place + BELOW] * gain.n, '.', label='one seed', **style)
        axes.plot(gain.mean, place, 'o', markersize=7, label='mean', **style)
    for value in _published(row):
        axes.plot(value, place, 'D', color=PUBLISHED, fillstyle='none', linestyle='none', label='published')


def _published(row: Row) -> list[float]:
    return [target.gain for target in row.targets if target.gain is not None]


def _subtitle(table: Table) -> str:
    parts = []
    for name in (CONTROL, TEACHER):
        summary = table.row(name).summary
        if summary is not None:
            spread = '' if summary.sd is None else f' ± {summary.sd:.2f} (n = {summary.n})'
            parts.append(f'{TITLES[name]} {summary.mean:.2f}{spread}')
    return ', '.join(parts) or 'the control has not finished'


def _unique(axes: Any) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    first = {label: handle for handle, label in reversed(list(zip(handles, labels, strict=True)))}
    order = [label for label in ('one seed', 'mean', f'{LEVEL:.0%} interval', 'published') if label in first]
    return [first[label] for label in order], order
