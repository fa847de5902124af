"""Read the published scores, ``docs/results/<suite>.csv``, and make the numbers of tables from them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.rows import LEVEL, Row, paired_gains
from mmdistill_dense.apps.suite.table import NONE, TITLES, count_cell, gain_cell, score_cell

PAGE, README = Path('docs/results.md'), Path('README.md')
FOLDER, PICTURES = Path('docs/results'), Path('docs/images/results')  # named by the definition's stem
FIRST = 2  # columns before the numbers: the row and its settings
_HEAD = '|  | settings | n |'  # the beginning of a section's table


@dataclass(frozen=True)
class Line:
    """One run of a CSV.

    Attributes:
        score: The score in percent.
        config_hash: The hash of its config.
        metrics: All metrics of val and test by ``<split>/<name>``, in the evaluators' units.
    """

    score: float
    config_hash: str
    metrics: Mapping[str, float]


Lines = Mapping[str, Mapping[int, Line]]


def read_scores(file: Path) -> dict[str, dict[int, Line]]:
    """Return the runs of a CSV as ``suite.py table`` writes it, by name and seed.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it has another format.
    """
    if not file.is_file():
        raise FileNotFoundError(f'{file}: no published scores; `results.py publish` writes them')
    return parse_scores(file.read_text(encoding='utf-8'), file)


def parse_scores(text: str, file: Path) -> dict[str, dict[int, Line]]:
    """Return the runs in the text of a CSV, as :func:`read_scores`."""
    found: dict[str, dict[int, Line]] = {}
    try:
        for line in csv.DictReader(io.StringIO(text)):
            metrics = {key: float(value) for key, value in line.items() if '/' in key and value}
            entry = Line(float(line['score']), line['config_hash'], metrics)
            found.setdefault(line['name'], {})[int(line['seed'])] = entry
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{file}: no scores of a suite ({error!r})') from error
    return found


def rows_of(lines: Lines, names: Sequence[str], seeds: Sequence[int]) -> dict[str, Row]:
    """Return the rows of published scores, with their gains. Rows of ``names`` without a run are empty."""
    scores = {
        name: {seed: line.score for seed, line in lines.get(name, {}).items()}
        for name in dict.fromkeys([*names, *lines])
    }
    alone = (TEACHER, CONTROL)
    gains = paired_gains({name: own for name, own in scores.items() if name not in alone}, scores.get(CONTROL, {}))
    rows = {}
    for name, own in scores.items():
        missing = () if name == TEACHER else tuple(seed for seed in seeds if seed not in own)
        rows[name] = Row(name, {seed: {'score': score} for seed, score in own.items()}, missing, gains.get(name))
    return rows


def number_head(metric: str, seeds: Sequence[int]) -> list[str]:
    """Return the titles of :func:`number_cells`."""
    return ['n', metric, f'gain [{LEVEL:.0%} interval]', *(f'seed {seed}' for seed in seeds)]


def number_cells(row: Row, seeds: Sequence[int]) -> list[str]:
    """Return the cells made from scores: n, score, gain, and the gain (for the control, the score) by seed."""
    return [count_cell(row, len(seeds)), score_cell(row), gain_cell(row), *(_one(row, seed) for seed in seeds)]


def _one(row: Row, seed: int) -> str:
    if row.name == TEACHER:
        return NONE
    if seed not in row.scores:
        return 'missing'
    if row.name == CONTROL:
        return f'{row.scores[seed]:.2f}'
    return f'{row.gain.each[seed]:+.2f}' if row.gain and seed in row.gain.each else f'no pair ({row.scores[seed]:.2f})'


def gap(rows: Mapping[str, Row], metric: str) -> str:
    """Return the sentence on teacher and student alone; nothing if one of them has no score."""
    found = [row.summary for row in (rows.get(TEACHER), rows.get(CONTROL)) if row is not None]
    if len(found) < 2 or found[0] is None or found[1] is None:
        return ''
    teacher, control = found[0].mean, found[1].mean
    return f'Teacher {teacher:.2f} {metric}, student alone {control:.2f}: {teacher - control:+.2f} between them.'


@dataclass(frozen=True)
class Shown:
    """The table of a published section. ``numbers`` are the cells of :func:`number_cells` by row."""

    metric: str
    seeds: tuple[int, ...]
    numbers: Mapping[str, list[str]]


def shown(section: str, stem: str) -> Shown:
    """Read the table of a section.

    Raises:
        ValueError: If it has none.
    """
    lines = section.splitlines()
    start = next((place for place, text in enumerate(lines) if text.startswith(_HEAD)), None)
    if start is None:
        raise ValueError(f'{PAGE}, suite:{stem}: no table; `results.py publish` writes it anew')
    head = _cells(lines[start])
    seeds = tuple(int(cell.removeprefix('seed ')) for cell in head if cell.startswith('seed '))
    last = FIRST + len(number_head('', seeds))
    numbers = {}
    for text in lines[start + 2 :]:
        if not text.startswith('|'):
            break
        cells = _cells(text)
        numbers[_name(cells[0])] = cells[FIRST:last]
    return Shown(head[FIRST + 1], seeds, numbers)


def _cells(text: str) -> list[str]:
    return [cell.strip() for cell in re.split(r'(?<!\\)\|', text.strip().strip('|'))]


def _name(cell: str) -> str:
    """The row's name: ``[kd](methods/logit_kd.md)`` is ``kd``."""
    title = cell.removeprefix('[').partition('](')[0]
    return {shown: name for name, shown in TITLES.items()}.get(title, title)
