"""The section of a race: what was tried, which candidates were stopped when, and what each of them cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.report.charts import COLOURS, Line, line_chart
from mmdistill_dense.apps.report.runs import read_log
from mmdistill_dense.apps.report.section import Missing, Section, Table
from mmdistill_dense.apps.suite.definition import RACE
from mmdistill_dense.apps.suite.plan import CONTROL, RUNG
from mmdistill_dense.apps.suite.race import LONG, alone_row
from mmdistill_dense.utils.atomic import read_json

NONE = '–'


def race_section(suite: Path, metric: str | None) -> Section | None:
    """Return the section; ``None`` for a suite without a race."""
    record = read_json(suite / RACE)
    if record is None:
        return None
    about = 'Scores are those on val, by which the race was decided. Rate and length: over those of the recipe.'
    section = Section('race', 'The race', about, lead=[*record['told'], *_bought(suite, record)])
    section.attempt(lambda: _table(suite, record))
    section.attempt(lambda: _curves(suite, record, metric))
    return section


def rows_of_race(record: Mapping[str, Any]) -> list[str]:
    return [*map(alone_row, record['rates']), *([LONG] if record['long'] else []), *record['methods']]


def _results(suite: Path, row: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result of a row at its rung, empty if it has none, and those at its end."""
    folders = sorted((suite / 'runs' / row).glob('seed*'))
    rungs = [found for folder in folders if (found := read_json(folder / RUNG))]
    ends = [found for folder in folders if (found := read_json(folder / 'result.json'))]
    return (rungs or [{}])[0], ends


def _table(suite: Path, record: Mapping[str, Any]) -> Table:
    head = ['candidate', 'rate', 'length', f'at {record["rung"]:.0%}', 'at the end, by seed', 'minutes', '']
    rows = []
    for row in rows_of_race(record):
        given, (rung, ends) = record['rows'].get(row, {}), _results(suite, row)
        seeds = ', '.join(f'{score:.2f}' for score in record.get('scores', {}).get(row, {}).values())
        # a run's minutes at its end hold those to its rung
        minutes = sum(one['minutes'] for one in ends) or rung.get('minutes', 0.0)
        at = f'{rung["score"]:.2f}' if rung else NONE
        cells = [f'{given.get("rate", 1):g}', f'{given.get("length", 1):g}', at, seeds or NONE, f'{minutes:.1f}']
        rows.append([row, *cells, _fate(record, row, bool(rung), bool(ends))])
    rows += [[row, *[NONE] * 5, f'left out: {why}'] for row, why in record['left_out'].items()]
    return Table('Candidates', head, rows)


def _fate(record: Mapping[str, Any], row: str, begun: bool, ended: bool) -> str:
    if row in record['failed']:
        return f'failed: {record["failed"][row]}'
    if row == record.get('winner'):
        return 'wins'
    if ended:
        return 'trained to the end'
    return f'stopped at {record["rung"]:.0%}' if begun else 'not begun'


def _curves(suite: Path, record: Mapping[str, Any], metric: str | None) -> Any:
    lines = []
    for place, row in enumerate(rows_of_race(record)):
        folder = suite / 'runs' / row / f'seed{record["seeds"][0]}'
        log = read_log(folder) if folder.is_dir() else None
        if log and metric in log.metrics:
            colour = 'control' if row == CONTROL else f'run-{place % COLOURS}'
            lines.append(Line(row, row, log.metrics[metric], colour))
    if not lines:
        raise Missing('No curves of the candidates: none was evaluated yet.')
    return line_chart(f'{metric} of all candidates, first seed, val split', lines, wide=True)


def _bought(suite: Path, record: Mapping[str, Any]) -> list[str]:
    if 'winner' not in record:
        return []
    said, (first, _), (best, _) = [], _results(suite, CONTROL), _results(suite, record['best'])
    if first and best and record['best'] != CONTROL:
        gain = best['score'] - first['score']
        said.append(f'The learning rate bought {gain:+.2f} (at {record["rung"]:.0%} of the training).')
    if record['winner'] in record['methods']:
        said.append(f'The teacher bought {record["lead"]:+.2f} on top (at the end).')
    return said
