"""``mmdistill suite table``: Markdown, CSV and a picture of the results so far."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.rows import LEVEL, Row, Table, collect
from mmdistill_dense.apps.suite.table import TITLES, as_markdown
from mmdistill_dense.utils.atomic import write_text, write_whole

OURS, QUIET = '#1f4e79', '#888888'
BELOW = 0.22  # of a line's height: the seeds are drawn below the bar


def gains_png(table: Table) -> bytes:
    """Return a PNG with a line per method: a small dot is a seed, a large one the mean, a bar its interval."""
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
    if any(row.gain for row in table.methods):
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
    order = [label for label in ('one seed', 'mean', f'{LEVEL:.0%} interval') if label in first]
    return [first[label] for label in order], order


def main(definition: Definition, out: Path | None = None) -> None:
    """Write ``table.md``, ``table.csv``, ``scores.csv`` and ``gains.png``, and print the Markdown."""
    table, folder = collect(definition), out or definition.out
    text = as_markdown(table)
    write_text(folder / 'table.md', text)
    write_text(folder / 'table.csv', as_csv(table))
    write_text(folder / 'scores.csv', scores_as_csv(table))
    write_whole(folder / 'gains.png', gains_png(table))
    print(text)
    print(f'Written: {folder}/table.md, table.csv, scores.csv, gains.png')


def as_csv(table: Table) -> str:
    """Return a line per row, with every digit: scores and gains in percent, memory in bytes."""
    return _csv([_cells(table, row, table.row(CONTROL).cost) for row in table.rows])


def scores_as_csv(table: Table) -> str:
    """Return a line per run, without times, so that an interrupted suite gives the same bytes."""
    own, lines = table.row(CONTROL).scores, []
    for row in table.rows:
        for seed, result in sorted(row.results.items()):
            paired = row.name not in (TEACHER, CONTROL) and seed in own
            line = {'name': row.name, 'seed': seed, 'score': result['score']}
            line |= {'gain': result['score'] - own[seed] if paired else None, 'iterations': result['iterations']}
            line['config_hash'] = result['config_hash']
            for split in ('test', 'val'):
                line |= {f'{split}/{key}': value for key, value in result['metrics'].get(split, {}).items()}
            lines.append(line)
    return _csv(lines)


def _cells(table: Table, row: Row, deployed: Mapping[str, Any]) -> dict[str, Any]:
    definition = table.definition
    method = definition.methods.get(row.name)
    size = deployed.get('teacher' if row.name == TEACHER else 'student') or {}
    memory = row.cost.get('memory', {}) if row.name != CONTROL else {}
    return {
        'name': row.name,
        'method': method and method.method,
        'variant': method and method.variant,
        'metric': definition.metric,
        'n': len(row.results),
        'planned': 1 if row.name == TEACHER else len(definition.seeds),
        'mean': row.summary and row.summary.mean,
        'sd': row.summary and row.summary.sd,
        'pairs': row.gain and row.gain.n,
        'gain': row.gain and row.gain.mean,
        'gain_sd': row.gain and row.gain.sd,
        'gain_low': row.gain and row.gain.low,
        'gain_high': row.gain and row.gain.high,
        'gain_p': row.gain and row.gain.p,
        'parameters': size.get('parameters'),
        'gflops': size.get('gflops'),
        'seconds_per_iteration': row.seconds_per_iteration,
        'loss_share': row.share,
        'step_ratio': row.cost.get('ratio'),
        'extra_memory': memory.get('extra'),
        'adapter_parameters': row.cost.get('adapter_parameters'),
        'config_hash': ' '.join(row.hashes),
    }


def _csv(lines: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator='\n')
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
