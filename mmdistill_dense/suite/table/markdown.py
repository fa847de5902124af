"""A suite's table as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmdistill_dense.recipes.targets import Target
from mmdistill_dense.suite.definition.budget import TWICE
from mmdistill_dense.suite.plan.runs import CONTROL, TEACHER, choice_name
from mmdistill_dense.suite.table import equal_compute
from mmdistill_dense.suite.table.notes import closing_notes
from mmdistill_dense.suite.table.paired import LEVEL, Gain
from mmdistill_dense.suite.table.rows import Row, Table

NONE = '–'
TITLES = {TEACHER: 'teacher', CONTROL: 'student alone', TWICE: 'student alone, twice the steps'}


def as_markdown(table: Table) -> str:
    """Return the table, with the scores by seed, the search, the sources and the notes."""
    sources = _sources(table)
    parts = [f'# {table.definition.title}', _main(table, sources), _seeds(table)]
    parts += ['## Search', search_table(table)] if table.searched else []
    parts += [_source_lines(sources), closing_notes(table)]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _main(table: Table, sources: Mapping[str, int]) -> str:
    definition = table.definition
    head = ['', 'n', f'{definition.metric}', f'gain [{LEVEL:.0%} interval]']
    head += ['parameters', 'GFLOPs', 's / iteration', 'step', 'extra memory']
    head += equal_compute.HEAD if definition.budget else []
    head += ['published: alone', 'published', 'published: gain'] if sources else []
    deployed = table.row(CONTROL).cost
    lines = head_lines(head)
    for row in table.rows:
        cells = [row_title(row), count_cell(row, len(definition.seeds)), score_cell(row), gain_cell(row)]
        published = _published(row.targets, sources) if sources else []
        compute = equal_compute.cells(table, row) if definition.budget else []
        lines.append(line([*cells, *_costs(row, deployed), *compute, *published]))
    return '\n'.join(lines)


def row_title(row: Row) -> str:
    """Return the title of a row."""
    return TITLES.get(row.name, row.name)


def count_cell(row: Row, planned: int) -> str:
    """Return the number of finished seeds, as ``2 of 3`` where some are missing."""
    if row.name == TEACHER and not row.results:
        return NONE
    if not row.missing:
        return str(len(row.results))
    return f'{len(row.results)} of {planned}'


def score_cell(row: Row) -> str:
    """Return the mean ± standard deviation."""
    if row.summary is None:
        return 'not tested' if row.name == TEACHER else 'not run'
    spread = '' if row.summary.sd is None else f' ± {row.summary.sd:.2f}'
    return f'{row.summary.mean:.2f}{spread}'


def gain_cell(row: Row) -> str:
    """Return the gain with its interval, bold where it is significant."""
    if row.gain is None:
        return NONE
    fewer = f', {row.gain.n} pair{"s" if row.gain.n > 1 else ""}' if row.gain.n < len(row.results) else ''
    return f'{interval_text(row.gain)}{fewer}'


def interval_text(gain: Gain) -> str:
    """Return the mean of a gain with its interval."""
    bounds = '' if gain.low is None else f' [{gain.low:+.2f}, {gain.high:+.2f}]'
    return f'{mean_text(gain)}{bounds}'


def mean_text(gain: Gain) -> str:
    """Return the mean of a gain, bold where it is significant."""
    return f'**{gain.mean:+.2f}**' if gain.told_apart else f'{gain.mean:+.2f}'


def _costs(row: Row, deployed: Mapping[str, Any]) -> list[str]:
    size = deployed.get('teacher' if row.name == TEACHER else 'student')
    parameters, gflops = (f'{size["parameters"] / 1e6:.3g} M', f'{size["gflops"]:.3g}') if size else (NONE, NONE)
    seconds = row.seconds_per_iteration
    taken = NONE if seconds is None else f'{seconds:.3g}'
    if row.name == TEACHER:
        return [parameters, gflops, NONE, NONE, NONE]
    if not row.distils:
        return [parameters, gflops, taken, '1', '0']
    ratio = f'{row.cost["ratio"]:.2f}' if row.cost else NONE
    memory = f'{row.cost["memory"]["extra"] / 2**20:.3g} MiB' if row.cost else NONE
    return [parameters, gflops, taken, ratio, memory]


def _published(targets: Sequence[Target], sources: Mapping[str, int]) -> list[str]:
    def cell(values: Iterable[str]) -> str:
        return '; '.join(values) or NONE

    return [
        cell(NONE if t.student is None else f'{t.student:.2f}' for t in targets),
        cell(f'{t.value:.2f} [{sources[_source(t)]}]' for t in targets),
        cell(NONE if t.gain is None else f'{t.gain:+.2f}' for t in targets),
    ]


def _sources(table: Table) -> dict[str, int]:
    """The numbers of the sources, in the order of the table."""
    names = dict.fromkeys(_source(target) for row in table.rows for target in row.targets)
    return {name: number for number, name in enumerate(names, 1)}


def _source(target: Target) -> str:
    teacher = '' if target.teacher is None else f'; teacher {target.teacher:.2f}'
    return f'{target.source}{teacher}'


def _source_lines(sources: Mapping[str, int]) -> str:
    if not sources:
        return ''
    lines = [f'- [{number}] {name}' for name, number in sources.items()]
    note = (
        "Published numbers are of the authors' code and networks, which differ from those of mmseg and mmdet: compare "
        'gains, not scores.'
    )
    return '\n'.join(['## Sources', '', note, '', *lines])


def _seeds(table: Table) -> str:
    """Every score, with its difference from the control at the same seed."""
    control = table.row(CONTROL).scores
    lines = head_lines(['seed', *map(str, table.definition.seeds)])
    for row in table.rows[1:]:
        lines.append(line([row_title(row), *(_one(row, seed, control) for seed in table.definition.seeds)]))
    return '\n'.join(['## Each seed', '', *lines])


def _one(row: Row, seed: int, control: Mapping[int, float]) -> str:
    if seed not in row.scores:
        return 'missing'
    score = row.scores[seed]
    if row.name == CONTROL or seed not in control:
        return f'{score:.2f}'
    return f'{score:.2f} ({score - control[seed]:+.2f})'


def search_table(table: Table) -> str:
    """Return all values that were tried, in their order; nothing without a search."""
    definition = table.definition
    if not table.searched:
        return ''
    seeds = ', '.join(map(str, definition.grid_seeds))
    lines = [line(['', 'tried', f'{definition.metric} on val, seed {seeds}', 'mean', '']), '|:--|:--|--:|--:|:--|']
    for name, tried in table.searched.items():
        for choice, scores in tried:
            shown = ', '.join('missing' if score is None else f'{score:.2f}' for score in scores)
            mean = NONE if None in scores else f'{math.fsum(scores) / len(scores):.2f}'
            taken = 'taken' if choice == table.chosen.get(name) else ''
            lines.append(line([name, choice_name(choice), shown, mean, taken]))
    rule = 'The value that is best on val, on average over these seeds, is the one of the table above.'
    return '\n'.join([rule, '', *lines])


def head_lines(head: Sequence[str], words: int = 1) -> list[str]:
    """Return the first two lines of a table. The first ``words`` columns are left-aligned."""
    return [line(head), line([':--'] * words + ['--:'] * (len(head) - words))]


def line(cells: Sequence[str]) -> str:
    """Return one line of a table."""
    return f'| {" | ".join(cells)} |'
