"""Check the published pages against the published scores, ``docs/results/<suite>.csv``, to find numbers edited by hand.

Both forms of a table are read: that of ``mmdistill suite table``, and that of version 0.2.0 with a column per seed.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.suite.definition import CONTROL, TEACHER
from mmdistill_dense.apps.suite.table import NONE, TITLES, count_cell, gain_cell, score_cell, seed_cell
from mmdistill_dense.apps.suite.verdict import Row, judge_results

README = Path('README.md')
FOLDER = Path('docs/results')  # its files are named by the definition's stem
NOTHING = 'not measured yet'
_PLACE = re.compile(r'(?<!`)(?P<mark><!-- results: (?P<rows>[^>]*?) -->)[^|\n]*(?P<end>\s\||$)', re.MULTILINE)
_README_ROW = re.compile(r'^\| \[.+\]\(docs/results/(\S+)\.md\); (\S+), .+? \| (.+?) \| (.+?) \| (\w+) \| (.+?) \|$')

Scores = Mapping[str, Mapping[int, Mapping[str, Any]]]  # of each run, by row and seed


def read_scores(file: Path) -> Scores:
    """Return what a ``scores.csv`` has of each run.

    Raises:
        ValueError: If it has another format.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    try:
        for line in csv.DictReader(file.read_text(encoding='utf-8').splitlines()):
            val = {key.removeprefix('val/'): float(line[key]) for key in line if key.startswith('val/') and line[key]}
            run = {'score': float(line['score']), 'metrics': {'val': val}}
            found.setdefault(line['name'], {})[int(line['seed'])] = run
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{file}: no scores of a suite ({error!r})') from error
    return found


def rows_of(scores: Scores) -> dict[str, Row]:
    """Return the rows with their gains."""
    return {row.name: row for row in judge_results(scores).rows}


def disagreements(root: Path) -> list[str]:
    """Tell what differs between ``docs/results/*.csv``, the pages beside them, README.md and the gains in other pages.

    Checked are n, scores, gains and intervals of every row, the score or gain of each seed, and that each page has its
    definition with the command that runs it, and its scores. Times, settings and versions are not checked.
    """
    found, scores = [], {}
    for stem in sorted({file.stem for file in (root / FOLDER).glob('*') if file.suffix in ('.csv', '.md')}):
        page, table, definition = FOLDER / f'{stem}.md', FOLDER / f'{stem}.csv', f'benchmarks/{stem}.yaml'
        files = (page, table, Path(definition))
        found += [f'{stem}: {file} is missing' for file in files if not (root / file).is_file()]
        text = (root / page).read_text(encoding='utf-8') if (root / page).is_file() else ''
        if text and f'\nmmdistill suite run {definition}\n' not in text:
            found.append(f'{page}: no command runs {definition}')
        if (root / table).is_file():
            scores[stem] = read_scores(root / table)
            found += [f'{page}, {what}' for what in _differences(text, scores[stem]) if text]
    found += _of_the_readme((root / README).read_text(encoding='utf-8'), scores)
    for path in pages(root):
        text = path.read_text(encoding='utf-8')
        if filled(text, scores) != text:
            found.append(f'{path.relative_to(root)}: gains after <!-- results: ... --> differ from {FOLDER}')
    return found


def _differences(text: str, scores: Scores) -> Iterator[str]:
    """Yield the cells that differ, and the rows that have scores but no line."""
    seeds = tuple(map(int, (re.search(r'; seeds (\d[\d, ]*)', text) or ['', '0'])[1].strip(' ,').split(',')))
    tables = [
        [_cells(line) for line in table.splitlines()] for table in re.findall(r'(?:^\|.*\n)+', text, re.MULTILINE)
    ]
    main = next((table for table in tables if 'n' in table[0]), None)
    if main is None:
        yield 'no table'
        return
    metric = main[0][main[0].index('n') + 1]
    rows = rows_of(scores)
    yield from (f'{name}: has scores, but no line' for name in rows if name not in {_name(line[0]) for line in main})
    teacher_mean, alone_mean = (rows[name].mean if name in rows else math.nan for name in (TEACHER, CONTROL))
    told = re.search(r'Teacher (\S+) \S+, student alone (\S+): (\S+) between them', text)
    if told and told.groups() != (f'{teacher_mean:.2f}', f'{alone_mean:.2f}', f'{teacher_mean - alone_mean:+.2f}'):
        yield f'{told[0]!r} is not what the rows say'
    for head, _, *lines in tables:
        for line in lines:
            row = rows.get(_name(line[0]), Row(_name(line[0]), {}))
            right = _right(row, metric, seeds)
            for title, cell in zip(head, line, strict=True):
                if cell != right.get(title, cell):
                    yield f'{row.name}, {title}: {cell!r} instead of {right[title]!r}'


def _right(row: Row, metric: str, seeds: tuple[int, ...]) -> dict[str, str]:
    """Return the cells of a row by the title of their column."""
    cells = {'n': count_cell(row, seeds), metric: score_cell(row), 'gain [95% interval]': gain_cell(row)}
    cells |= {str(seed): seed_cell(row, seed) for seed in seeds}
    return cells | {f'seed {seed}': _old_cell(row, seed) for seed in seeds}


def _old_cell(row: Row, seed: int) -> str:
    """Return the cell of a seed as version 0.2.0 wrote it: the gain of a method, the score of the student alone."""
    if row.name == TEACHER or seed not in row.scores:
        return NONE if row.name == TEACHER else 'missing'
    gains, score = row.gain.by_seed if row.gain else {}, f'{row.scores[seed]:.2f}'
    return f'{gains[seed]:+.2f}' if seed in gains else f'no pair ({score})' if row.control else score


def _cells(text: str) -> list[str]:
    return [cell.strip() for cell in re.split(r'(?<!\\)\|', text.strip().strip('|'))]


def _name(cell: str) -> str:
    """The row's name: ``[kd](methods/logit_kd.md)`` is ``kd``."""
    title = cell.removeprefix('[').partition('](')[0]
    return {shown: name for name, shown in TITLES.items()}.get(title, title)


def _of_the_readme(text: str, scores: Mapping[str, Scores]) -> Iterator[str]:
    """Yield the lines of the README's table that are not the teacher, the control and the best of the named rows."""
    among = (re.search(r'Best: the largest mean gain among ([\w, ]+)\.', text) or ['', ''])[1].split(', ')
    for stem, _, *cells in (match.groups() for match in map(_README_ROW.match, text.splitlines()) if match):
        rows = rows_of(scores.get(stem, {}))
        means = {name: gain.mean for name in among if name in rows and (gain := rows[name].gain)}
        best = max(means, key=means.__getitem__, default=NONE)
        shown = [rows.get(TEACHER), rows.get(CONTROL)]
        right = [score_cell(row) if row and row.scores else NONE for row in shown]
        right += [best, gain_cell(rows[best]) if best in rows else NONE]
        if cells != right:
            yield f'{README}: {stem}: {" | ".join(cells)} instead of {" | ".join(right)}'


def pages(root: Path) -> list[Path]:
    """Return the pages with gains behind marks, ``<!-- results: SUITE ROW, SUITE ROW -->``."""
    return [file for file in sorted((root / 'docs').rglob('*.md')) if _PLACE.search(file.read_text(encoding='utf-8'))]


def filled(text: str, scores: Mapping[str, Scores]) -> str:
    """Return a page with the gains of the scores after every mark, up to the end of its table cell or line."""

    def place(match: re.Match[str]) -> str:
        gains: dict[str, list[str]] = {}
        for suite, name in (pair.split() for pair in match['rows'].split(',')):
            if name in scores.get(suite, {}):
                gains.setdefault(suite, []).append(f'{name} {gain_cell(rows_of(scores[suite])[name])}')
        said = '; '.join(f'{suite}: {", ".join(rows)}' for suite, rows in gains.items())
        return f'{match["mark"]} {said or NOTHING}{match["end"]}'

    return _PLACE.sub(place, text)
