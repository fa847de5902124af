"""The README's table of results: a line per published suite, with the best of the rows that its marker names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.rows import LEVEL, Row
from mmdistill_dense.apps.suite.table import NONE, count_cell, gain_cell, head_lines, line, score_cell
from tools.docs import markers
from tools.docs.scores import PAGE, Lines, rows_of, shown


def choice_of(readme: str, file: Path) -> Sequence[str]:
    """Read from the marker of which rows the best is shown: ``<!-- results rows=maskd,pcd -->``; without them of all.

    Raises:
        ValueError: For another option.
    """
    options = markers.options(readme, markers.RESULTS)
    if options.keys() - {'rows'}:
        raise ValueError(f'{file}: <!-- {markers.RESULTS} --> takes rows=A,B; found {", ".join(options)}')
    return options.get('rows', ())


def readme_table(sections: Mapping[str, str], scores: Mapping[str, Lines], choice: Sequence[str] = ()) -> str:
    """Return the table: the scores of teacher and control, and the largest mean gain with its interval.

    Args:
        sections: The sections of ``docs/results.md`` by suite, in their order.
        scores: The published runs by suite.
        choice: The rows of which the best is shown; suites without any of them are left out. Default: all.

    Raises:
        ValueError: If the choice names a row that no suite has.
    """
    if not sections:
        return ''
    tables = {stem: shown(text, stem) for stem, text in sections.items()}
    rows = {stem: rows_of(scores[stem], list(table.numbers), table.seeds) for stem, table in tables.items()}
    unknown = set(choice) - {name for found in rows.values() for name in found}
    if unknown:
        raise ValueError(f'the table of the README: no suite has the row {", ".join(sorted(unknown))}; {PAGE} has them')
    lines = head_lines(['data and networks', 'teacher', 'student alone', 'best method', 'gain'])
    for stem, table in tables.items():
        if choice and not any(name in rows[stem] for name in choice):
            continue
        teacher, control = rows[stem].get(TEACHER), rows[stem].get(CONTROL)
        title = next(text for text in sections[stem].splitlines() if text and not text.startswith('#')).rstrip('.')
        seeds = f'{len(table.seeds)} seed{"s" if len(table.seeds) > 1 else ""}'
        lines.append(
            line([
                f'[{title}]({PAGE}#{slug(stem)}); {table.metric}, {seeds}',
                NONE if teacher is None or teacher.summary is None else score_cell(teacher),
                NONE if control is None else score_cell(control),
                *_best(rows[stem], choice or list(rows[stem]), len(table.seeds)),
            ])
        )  # fmt: skip
    return '\n'.join([*lines, '', _legend(choice)])


def _legend(choice: Sequence[str]) -> str:
    return (
        f'Gain over the student alone at the same seeds, in points with the {LEVEL:.0%} interval; bold where it '
        "differs from 0 by a paired t-test with Holm's correction over all rows of its suite. Best: the largest mean "
        f'gain {"among " + ", ".join(choice) if choice else "of all rows"}.'
    )


def slug(heading: str) -> str:
    """Return the anchor of a heading, as in GitHub and mkdocs."""
    return ''.join(letter for letter in heading.lower().replace(' ', '-') if letter.isalnum() or letter in '-_')


def _best(rows: Mapping[str, Row], names: Sequence[str], planned: int) -> tuple[str, str]:
    """Name and gain of the row with the largest mean gain."""
    gains = {name: rows[name].gain for name in names if name in rows}
    means = {name: gain.mean for name, gain in gains.items() if gain is not None and not math.isnan(gain.mean)}
    if not means:
        return NONE, NONE
    name = max(means, key=means.__getitem__)
    row = rows[name]
    return name, f'{gain_cell(row)} ({count_cell(row, planned)})' if row.missing and row.results else gain_cell(row)
