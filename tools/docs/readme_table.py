"""The README's table of results: every row of every published suite."""

from __future__ import annotations

from collections.abc import Mapping

from mmdistill_dense.suite.plan.runs import CONTROL, TEACHER
from mmdistill_dense.suite.table.markdown import NONE, TITLES, count_cell, gain_cell, head_lines, line, score_cell
from mmdistill_dense.suite.table.paired import LEVEL
from mmdistill_dense.suite.table.rows import Row
from tools.docs.scores import PAGE, Lines, Shown, rows_of, shown


def readme_table(sections: Mapping[str, str], scores: Mapping[str, Lines]) -> str:
    """Return the table of the published suites: a line per row, a column per suite, gains with their intervals."""
    if not sections:
        return ''
    tables = {stem: shown(text, stem) for stem, text in sections.items()}
    rows = {stem: rows_of(scores[stem], list(table.numbers), table.seeds) for stem, table in tables.items()}
    lines = head_lines(['', *(f'[{stem}]({PAGE}#{slug(stem)})' for stem in sections)])
    for name in dict.fromkeys(name for found in rows.values() for name in found):
        cells = [_cell(rows[stem].get(name), len(table.seeds)) for stem, table in tables.items()]
        lines.append(line([TITLES.get(name, name), *cells]))
    legend = (
        f'Gain over the student alone at the same seeds, in percentage points, with the {LEVEL:.0%} interval; bold '
        "where it differs from 0 by a paired t-test with Holm's correction over the rows of its suite. Teacher and "
        'student alone: the score. Every row of every suite is shown.'
    )
    return '\n'.join([*lines, '', legend, '', *(_suite(sections[stem], stem, table) for stem, table in tables.items())])


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


def _suite(section: str, stem: str, table: Shown) -> str:
    title = next(text for text in section.splitlines() if text and not text.startswith('#'))
    return f'- {stem}: {title.rstrip(".")}; {table.metric}, seeds {", ".join(map(str, table.seeds))}'
