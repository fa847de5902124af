"""``mmdistill suite table``: Markdown, CSV and a picture of the results so far."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.suite import configs
from mmdistill_dense.apps.suite.definition import Definition, is_control, with_options
from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.rows import LEVEL, Row, SuiteTable, collect, own_data
from mmdistill_dense.utils.files import write_text, write_whole

DIGITS = 12  # shown of a file's sha256
BOLD = (
    "Bold: the gain differs from 0 by a paired t-test with Holm's correction over the rows. If no method had any "
    f'effect, at most {1 - LEVEL:.0%} of such tables would have a bold gain.'
)


def closing_notes(table: SuiteTable) -> str:
    reading = ['## How to read it', '', *(f'- {line}' for line in _reading(table))]
    made = ['## What it was made of', '', *(f'- {line}' for line in _made_of(table))]
    return '\n'.join([*reading, '', *made])


def _reading(table: SuiteTable) -> list[str]:
    definition = table.definition
    gaps = [f'{row.name} seed {", ".join(map(str, row.missing))}' for row in table.rows if row.missing]
    return [
        f'{definition.metric} in percent on {split_of(table)}, last checkpoint; mean ± standard deviation (n - 1) over '
        'n seeds. Every run is in the table, losers included.',
        f'gain: mean of (method - {alone_title(table)}) at the same seed, with the {LEVEL:.0%} interval of '
        f"Student's t over these pairs; one pair has no interval. Each interval is for its row alone. {BOLD}",
        *([f'Missing: {"; ".join(gaps)}. Gains use only the seeds that both runs have.'] if gaps else []),
        *_time_lines(table),
    ]


def alone_title(table: SuiteTable) -> str:
    """Return what the others are compared with: of several controls the best one on val."""
    if sum(is_control(row.name) and bool(row.results) for row in table.rows) < 2:
        return 'student alone'
    where = ', the pictures of the gain too' if split_of(table) != 'test' else ''
    return f'{row_title(table.row(table.control))}, the best control on val{where}'


def split_of(table: SuiteTable) -> str:
    results = [result for row in table.rows for result in row.results.values()]
    return 'val, the only labelled one' if any(result.get('test_is_val') for result in results) else 'test'


def _time_lines(table: SuiteTable) -> list[str]:
    if all(row.seconds_per_iteration is None for row in table.rows):
        return []
    jobs = table.definition.jobs
    beside = f'; up to {jobs} runs side by side' if jobs > 1 else ''
    return [
        f's / iteration: wall time in the runs, median of the log, mean over seeds ({each(table, device)}{beside}).'
    ]


def _made_of(table: SuiteTable) -> list[str]:
    definition = table.definition
    options = [f'{key}={value}' for key, value in definition.options.items()]
    hashes = [f'{row.name} {", ".join(row.hashes)}' for row in table.rows if row.hashes]
    lines = [
        f'Recipe: `{definition.control.stem}`; seeds {", ".join(map(str, definition.seeds))}; '
        + (f'options `{" ".join(options)}`' if options else 'no options'),
        *_settings(table),
        *_batch(table),
        f'Teacher: {each(table, receipts) or "none"}',
        *_unlabelled(table),
        f'Config hashes: {"; ".join(hashes) or "none"}',
        f'Versions: {each(table, versions) or "none"}',
    ]
    commands = [f'`mmdistill suite {word} {definition.path}`' for word in ('run', 'table')]
    return [*lines, f'Made by: {", ".join(commands)}']


def _batch(table: SuiteTable) -> list[str]:
    processes = each(table, lambda result: str(result.get('processes') or ''))
    one = configs.batch_of(configs.control_config(table.definition))
    return [f'Batch: {processes} process(es) with {one} pictures each'] if processes else []


def _settings(table: SuiteTable) -> list[str]:
    """The rows that are not a method as shipped."""
    said = []
    for method in table.definition.methods.values():
        origin = str(method.config) if method.config else ' '.join(filter(None, [method.method, method.variant]))
        options = with_options(method.options)
        chosen = f' with settings {method.settings!r}' if method.settings else ''
        own = own_data(method)
        if origin != method.name or options or chosen or own:
            said.append(f'{method.name} = {origin or "student alone"}{chosen}{options}{own}')
    return [f'Rows: {"; ".join(said)}'] if said else []


def receipts(result: Mapping[str, Any]) -> str:
    """Return the configs and files of a run's teachers."""
    found = result.get('teacher') or {}
    several = found if 'file' not in found else {'': found}
    return '; '.join(_receipt(name, receipt) for name, receipt in several.items())


def _receipt(name: str, receipt: Mapping[str, Any]) -> str:
    title = f'{name}: ' if name else ''
    if receipt['file'] is None:
        return f'{title}random weights of {receipt["config"]}'
    digits, whole = str(receipt['sha256'])[:DIGITS], f'{receipt["matched"]} of {receipt["total"]} tensors'
    return f'{title}`{receipt["config"]}`, {receipt["file"]}, sha256 {digits}…, {whole}'


def _unlabelled(table: SuiteTable) -> list[str]:
    said = each(table, unlabelled)
    if not said:
        return []
    return [f'Pictures without labels: {said}; the teacher may have seen their labels, as its own training set says']


def unlabelled(result: Mapping[str, Any]) -> str:
    """Return the number of a run's pictures without labels, their share of a step, and how often each was seen."""
    found = result.get('unlabelled')
    if not found:
        return ''
    return (
        f'{found["pictures"]}, {found["ratio"]:g} for each labelled one of a step, each seen {found["passes"]:.3g} '
        f'times (hash of the names {found["names"][:DIGITS]}…)'
    )


def device(result: Mapping[str, Any]) -> str:
    return f'{result.get("device")}, {result.get("threads")} thread(s)'


def versions(result: Mapping[str, Any]) -> str:
    return ', '.join(f'{name} {version}' for name, version in result.get('versions', {}).items())


def each(table: SuiteTable, say: Callable[[Mapping[str, Any]], str]) -> str:
    """Return a property of all students' results; where they differ, with the rows of each."""
    said: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for result in row.results.values():
            text = '' if row.name == TEACHER else say(result)
            if text:
                said.setdefault(text, {})[row.name] = None
    if len(said) < 2:
        return next(iter(said), '')
    return '; '.join(f'{text} ({", ".join(rows)})' for text, rows in said.items())


NONE = '–'
TITLES = {TEACHER: 'teacher', CONTROL: 'student alone'}


def as_markdown(table: SuiteTable) -> str:
    """Return the table, with the scores by seed and the notes."""
    parts = [f'# {table.definition.title}', _main(table), _seeds(table), closing_notes(table)]
    return '\n\n'.join(parts) + '\n'


def _main(table: SuiteTable) -> str:
    definition = table.definition
    lines = head_lines(['', 'n', f'{definition.metric}', f'gain [{LEVEL:.0%} interval]', 's / iteration'])
    for row in table.rows:
        seconds = row.seconds_per_iteration
        taken = NONE if seconds is None or row.name == TEACHER else f'{seconds:.3g}'
        lines.append(
            line([row_title(row), count_cell(row, len(definition.seeds)), score_cell(row), gain_cell(row), taken])
        )
    return '\n'.join(lines)


def row_title(row: Row) -> str:
    return TITLES.get(row.name, row.name)


def count_cell(row: Row, planned: int) -> str:
    """Return the number of finished seeds, as ``2 of 3`` where some are missing."""
    if row.name == TEACHER and not row.results:
        return NONE
    if not row.missing:
        return str(len(row.results))
    return f'{len(row.results)} of {planned}'


def score_cell(row: Row) -> str:
    if row.summary is None:
        return 'not tested' if row.name == TEACHER else 'not run'
    spread = '' if row.summary.sd is None else f' ± {row.summary.sd:.2f}'
    return f'{row.summary.mean:.2f}{spread}'


def gain_cell(row: Row) -> str:
    """Return the gain with its interval, bold where it is significant."""
    if row.gain is None:
        return NONE
    gain, bold = row.gain, '**' if row.gain.told_apart else ''
    bounds = '' if gain.low is None else f' [{gain.low:+.2f}, {gain.high:+.2f}]'
    fewer = f', {gain.n} pair{"s" if gain.n > 1 else ""}' if gain.n < len(row.results) else ''
    return f'{bold}{gain.mean:+.2f}{bold}{bounds}{fewer}'


def _seeds(table: SuiteTable) -> str:
    control = table.row(table.control).scores
    lines = head_lines(['seed', *map(str, table.definition.seeds)])
    for row in table.rows[1:]:
        lines.append(line([row_title(row), *(_one(row, seed, control) for seed in table.definition.seeds)]))
    return '\n'.join(['## Each seed', '', *lines])


def _one(row: Row, seed: int, control: Mapping[int, float]) -> str:
    if seed not in row.scores:
        return 'missing'
    score = row.scores[seed]
    if is_control(row.name) or seed not in control:
        return f'{score:.2f}'
    return f'{score:.2f} ({score - control[seed]:+.2f})'


def head_lines(head: Sequence[str], words: int = 1) -> list[str]:
    """Return the first two lines of a table. The first ``words`` columns are left-aligned."""
    return [line(head), line([':--'] * words + ['--:'] * (len(head) - words))]


def line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


# The files


OURS, QUIET = '#1f4e79', '#888888'
BELOW = 0.22  # of a line's height: the seeds are drawn below the bar


def gains_png(table: SuiteTable) -> bytes:
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
    alone = row_title(table.row(table.control))
    axes.set_xlabel(f'gain in {table.definition.metric} over the {alone}, same seeds, percentage points')
    axes.set_title('\n'.join([table.definition.title, _subtitle(table)]), fontsize=10, loc='left')
    axes.grid(axis='x', color='#dddddd', linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis='y', length=0)
    if any(row.gain for row in table.methods):
        found = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(list(found.values()), list(found), fontsize=8, frameon=False, loc='outside lower right', ncols=4)
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


def _subtitle(table: SuiteTable) -> str:
    parts = []
    for name in (table.control, TEACHER):
        summary = table.row(name).summary
        if summary is not None:
            spread = '' if summary.sd is None else f' ± {summary.sd:.2f} (n = {summary.n})'
            parts.append(f'{TITLES.get(name, name)} {summary.mean:.2f}{spread}')
    return ', '.join(parts) or 'the control has not finished'


def write_table(definition: Definition, out: Path | None = None) -> None:
    """Write ``table.md``, ``table.csv``, ``scores.csv`` and ``gains.png``, and print the Markdown."""
    table, folder = collect(definition), out or definition.out
    text = as_markdown(table)
    write_text(folder / 'table.md', text)
    write_text(folder / 'table.csv', as_csv(table))
    write_text(folder / 'scores.csv', scores_as_csv(table))
    write_whole(folder / 'gains.png', gains_png(table))
    print(text)
    print(f'Written: {folder}/table.md, table.csv, scores.csv, gains.png')


def as_csv(table: SuiteTable) -> str:
    """Return a line per row, with every digit: scores and gains in percent."""
    return _csv([_cells(table, row) for row in table.rows])


def scores_as_csv(table: SuiteTable) -> str:
    """Return a line per run, without times, so that an interrupted suite gives the same bytes."""
    own, lines = table.row(table.control).scores, []
    for row in table.rows:
        for seed, result in sorted(row.results.items()):
            paired = row.name != TEACHER and not is_control(row.name) and seed in own
            line = {'name': row.name, 'seed': seed, 'score': result['score']}
            line |= {'gain': result['score'] - own[seed] if paired else None, 'iterations': result['iterations']}
            line['config_hash'] = result['config_hash']
            for split in ('test', 'val'):
                line |= {f'{split}/{key}': value for key, value in result['metrics'].get(split, {}).items()}
            lines.append(line)
    return _csv(lines)


def _cells(table: SuiteTable, row: Row) -> dict[str, Any]:
    definition = table.definition
    method = definition.methods.get(row.name)
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
        'seconds_per_iteration': row.seconds_per_iteration,
        'loss_share': row.share,
        'config_hash': ' '.join(row.hashes),
    }


def _csv(lines: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator='\n')
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
