"""The README's table of results: a column per published suite, with all rows or with those that its marker names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.rows import LEVEL, Row
from mmdistill_dense.apps.suite.table import NONE, TITLES, count_cell, gain_cell, head_lines, line, score_cell
from tools.docs import markers
from tools.docs.scores import PAGE, Lines, Shown, rows_of, shown

BEST = 'best baseline'


@dataclass(frozen=True)
class Choice:
    """Which rows the table has.

    Attributes:
        rows: The methods, in their order; none for all.
        best: Further rows, of which each suite shows the one with the largest mean gain.
    """

    rows: Sequence[str] = ()
    best: Sequence[str] = ()


def choice_of(readme: str, file: Path) -> Choice:
    """Read the choice from the marker: ``<!-- results rows=maskd,pcd best=kd,cwd -->``; without options all rows.

    Raises:
        ValueError: For another option.
    """
    options = markers.options(readme, markers.RESULTS)
    if options.keys() - {'rows', 'best'}:
        raise ValueError(f'{file}: <!-- {markers.RESULTS} --> takes rows=A,B and best=C,D; found {", ".join(options)}')
    return Choice(options.get('rows', ()), options.get('best', ()))


def readme_table(sections: Mapping[str, str], scores: Mapping[str, Lines], choice: Choice | None = None) -> str:
    """Return the table: a line per row, a column per suite, gains with their intervals.

    Args:
        sections: The sections of ``docs/results.md`` by suite, in their order.
        scores: The published runs by suite.
        choice: The rows. Default: all.

    Raises:
        ValueError: If the choice names a row that no suite has.
    """
    choice = choice or Choice()
    if not sections:
        return ''
    tables = {stem: shown(text, stem) for stem, text in sections.items()}
    rows = {stem: rows_of(scores[stem], list(table.numbers), table.seeds) for stem, table in tables.items()}
    names = list(dict.fromkeys(name for found in rows.values() for name in found))
    unknown = {*choice.rows, *choice.best} - set(names)
    if unknown:
        raise ValueError(f'the table of the README: no suite has the row {", ".join(sorted(unknown))}; {PAGE} has them')
    if choice.rows:
        names = [TEACHER, CONTROL, *choice.rows]
    lines = head_lines(['', *(f'[{stem}]({PAGE}#{slug(stem)})' for stem in sections)])
    for name in names:
        cells = [_cell(rows[stem].get(name), len(table.seeds)) for stem, table in tables.items()]
        lines.append(line([TITLES.get(name, name), *cells]))
    if choice.best:
        lines.append(line([BEST, *(_best(rows[stem], choice.best, len(tables[stem].seeds)) for stem in sections)]))
    suites = (_suite(sections[stem], stem, table) for stem, table in tables.items())
    return '\n'.join([*lines, '', _legend(choice), '', *suites])


def _legend(choice: Choice) -> str:
    said = (
        f'Gain over the student alone at the same seeds, in percentage points, with the {LEVEL:.0%} interval; bold '
        "where it differs from 0 by a paired t-test with Holm's correction over all rows of its suite. Teacher and "
        'student alone: the score.'
    )
    if choice.best:
        said += f' Best baseline: the largest mean gain among {", ".join(choice.best)}.'
    return said if choice.rows else f'{said} Every row of every suite is shown.'


def slug(heading: str) -> str:
    """Return the anchor of a heading, as in GitHub and mkdocs."""
    return ''.join(letter for letter in heading.lower().replace(' ', '-') if letter.isalnum() or letter in '-_')


def _cell(row: Row | None, planned: int) -> str:
    if row is None:
        return NONE
    if row.name == TEACHER:
        return NONE if row.summary is None else score_cell(row)
    text = score_cell(row) if row.name == CONTROL or row.gain is None else gain_cell(row)
    return f'{text} ({count_cell(row, planned)})' if row.missing and row.results else text


def _best(rows: Mapping[str, Row], names: Sequence[str], planned: int) -> str:
    """The cell of the row with the largest mean gain, with its name."""
    gains = {name: rows[name].gain for name in names if name in rows}
    means = {name: gain.mean for name, gain in gains.items() if gain is not None and not math.isnan(gain.mean)}
    if not means:
        return NONE
    name = max(means, key=means.__getitem__)
    return f'{name} {_cell(rows[name], planned)}'


def _suite(section: str, stem: str, table: Shown) -> str:
    title = next(text for text in section.splitlines() if text and not text.startswith('#'))
    return f'- {stem}: {title.rstrip(".")}; {table.metric}, seeds {", ".join(map(str, table.seeds))}'
