"""``results.py across``: does a method gain on pairs in general? The mean of its gains over several suites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.plan import CONTROL
from mmdistill_dense.apps.suite.rows import LEVEL, Gain, Row, Table, collect, holm, paired_gain
from mmdistill_dense.apps.suite.table import NONE, head_lines, interval_text, line, mean_text, row_title, score_cell
from mmdistill_dense.utils.files import write_text


@dataclass(frozen=True)
class Across:
    """One method over several suites."""

    name: str
    # the paired gain in each suite, ``None`` where runs are missing. Its p-values are corrected by Holm's method over
    # the suites.
    each: tuple[Gain | None, ...]
    # the mean over the suites of each suite's mean gain. Its interval and p-value treat the suites, not the seeds, as
    # the sample: they speak of a new pair. ``None`` without any gain.
    mean: Gain | None


def main(definitions: Sequence[Definition], against: str = CONTROL, out: Path | None = None) -> None:
    """Print the table of the results so far, and write it to ``out``."""
    text = as_markdown([collect(definition) for definition in definitions], against)
    print(text)
    if out:
        write_text(out, text)


def across(tables: Sequence[Table], against: str = CONTROL) -> list[Across]:
    """Return the rows that all suites have, compared with the row ``against`` of the same suite and seed."""
    names = [row.name for row in tables[0].methods if row.name != against]
    common = [name for name in names if all(_has(table, name) for table in tables)]
    return [_across(name, tables, against) for name in common]


def as_markdown(tables: Sequence[Table], against: str = CONTROL) -> str:
    """Return the table with a line per suite and a column per method, and how to read it."""
    _check(tables, against)
    methods = across(tables, against)
    if not methods:
        rows = '; '.join(f'{_name(table)}: {", ".join(table.definition.methods)}' for table in tables)
        raise ValueError(f'across: the definitions share no row beside {against}. They have {rows}.')
    base = row_title(Row(against, {}))
    head = ['suite', 'metric', f'{base} ± sd', *(method.name for method in methods)]
    lines = head_lines(head)
    for place, table in enumerate(tables):
        gains = [_cell(method.each[place], table.row(against)) for method in methods]
        lines.append(line([_name(table), table.definition.metric, score_cell(table.row(against)), *gains]))
    lines.append(line([f'**mean over suites** [{LEVEL:.0%} interval]', '', '', *(_mean(one) for one in methods)]))
    return '\n'.join([*lines, '', *_reading(base)]) + '\n'


def _across(name: str, tables: Sequence[Table], against: str) -> Across:
    # Holm's correction is over what is tested together: here the suites of one method
    gains = holm({_name(table): paired_gain(table.row(name).scores, table.row(against).scores) for table in tables})
    each = tuple(gains.values())
    means = {place: gain.mean for place, gain in enumerate(each) if gain}
    return Across(name, each, paired_gain(means, dict.fromkeys(means, 0.0)))


def _check(tables: Sequence[Table], against: str) -> None:
    names = [_name(table) for table in tables]
    if len(tables) < 2:
        raise ValueError(
            f'across: found the definition {names[0]} alone. Name at least two, each of another pair or data set.'
        )
    if len(set(names)) < len(names):
        raise ValueError(f'across: found {", ".join(names)}. Each definition must have another file name.')
    for table in tables:
        if not _has(table, against):
            rows = ', '.join((CONTROL, *table.definition.methods))
            raise ValueError(f'across: --against {against}: {_name(table)} has no such row. It has {rows}.')


def _has(table: Table, name: str) -> bool:
    return name == CONTROL or name in table.definition.methods


def _name(table: Table) -> str:
    return table.definition.path.stem


def _cell(gain: Gain | None, base: Row) -> str:
    if gain is None:
        return NONE
    spread = base.summary.sd if base.summary else None
    units = f', {gain.mean / spread:+.1f} sd' if spread else ''
    return f'{mean_text(gain)} ({gain.n} seed{"s" if gain.n > 1 else ""}{units})'


def _mean(method: Across) -> str:
    if method.mean is None:
        return NONE
    positive = sum(value > 0 for value in method.mean.each.values())
    return f'{interval_text(method.mean)}, {positive} of {method.mean.n} positive'


def _reading(base: str) -> list[str]:
    return [
        f'Gains are points over {base} of the same suite and seed; "sd" is the spread of {base} over seeds.',
        "The last line counts each suite's mean once (Student's t over the suites), so its interval is for a new pair.",
        "Bold: differs from 0; for a suite by a paired t-test with Holm's correction over the suites.",
    ]
