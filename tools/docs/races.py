"""``results.py races``: what a race would have returned, replayed by its own rules from runs trained to their ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from mmdistill_dense.apps.suite import plan, race, race_plan
from mmdistill_dense.apps.suite.definition import Definition, Race
from mmdistill_dense.apps.suite.plan import CONTROL, RUNG, TEACHER
from mmdistill_dense.apps.suite.table import head_lines, line
from mmdistill_dense.utils.files import write_json
from tools.docs import records

Record = Mapping[str, Any]
Runs = Mapping[tuple[str, int], Record]  # by row and seed
FREE = race_plan.Price(0, 0, 0, 0, 0, 0)


def main(definition: Definition, root: Path, only: Sequence[str] = ()) -> None:
    """Print a race for each order of two seeds, and what the winners lost to the row that is best on test.

    Candidates are the rows ``only``, or all that have finished or published runs. Their learning rate is that of the
    suite. A row of the student alone that is longer than the control is the candidate with more time.

    Raises:
        ValueError: If not two seeds have all rows, or a row has no score on val in the middle.
    """
    if unknown := set(only) - set(definition.methods):
        raise ValueError(f'races: --only {", ".join(sorted(unknown))}: the rows are {", ".join(definition.methods)}')
    given = _found(definition, root)
    definition = replace(
        definition, methods={name: row for name, row in definition.methods.items() if not only or name in only}
    )
    raced, runs = _as_race(definition, given)
    rows = [CONTROL, *raced.methods]
    seeds = [seed for seed in raced.seeds if all((row, seed) in runs for row in rows)]
    if len(seeds) < 2:
        raise ValueError(f'races: two seeds with a run of every row are needed ({", ".join(rows)}), found {seeds}')
    teacher = next((record for (name, _), record in given.items() if name == TEACHER), None)
    test = {row: fmean(runs[row, seed]['result']['score'] for seed in seeds) for row in rows}
    best, alone = max(test, key=test.__getitem__), test[CONTROL]
    print('\n'.join(head_lines(['seeds', 'kept at half', 'winner', 'its test score', 'regret'])))
    regrets = []
    for first, second in itertools.permutations(seeds, 2):
        told = _replay(raced, runs, teacher, (first, second))
        winner = told['winner']
        regrets.append(test[best] - test[winner])
        kept = ', '.join(row for row in told['kept'] if row != CONTROL)
        print(line([f'{first}, {second}', kept, winner, f'{test[winner]:.2f}', f'{regrets[-1]:.2f}']))
    print(f'\nBest on test, mean of {len(seeds)} seeds: {best} {test[best]:.2f}; student alone {alone:.2f}.')
    print(f'Mean regret {fmean(regrets):.2f}, largest {max(regrets):.2f}; from worst to best row', end=' ')
    print(f'{max(test.values()) - min(test.values()):.2f} points.')


def _found(definition: Definition, root: Path) -> dict[tuple[str, int], Record]:
    published = records.read(records.file_of(definition, root))
    every = {(run.name, run.seed): records.record_of(definition, run, published) for run in plan.runs(definition)}
    return {key: record for key, record in every.items() if record}


def _as_race(definition: Definition, found: Runs) -> tuple[Definition, dict[tuple[str, int], Record]]:
    """Return the suite with the rows that a race can have, and their runs under the names that they have in one."""
    alone = {name: row for name, row in definition.methods.items() if not row.distils and row.length > 1}
    long = max(alone, key=lambda name: alone[name].length, default=None)
    names = {name: name for name, row in definition.methods.items() if row.distils and row.length == 1}
    names = {CONTROL: CONTROL, **names, **({long: race_plan.LONG} if long else {})}
    rows = {new: replace(definition.methods[old], name=new) for old, new in names.items() if old != CONTROL}
    runs = {(names[row], seed): record for (row, seed), record in found.items() if row in names}
    ended = {row for row, _ in runs}
    return replace(definition, methods={name: row for name, row in rows.items() if name in ended}), runs


def _replay(definition: Definition, runs: Runs, teacher: Record | None, seeds: Sequence[int]) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        definition = replace(definition, out=Path(folder), seeds=tuple(seeds))
        for run in plan.runs(definition):
            record = teacher if run.kind == TEACHER else runs.get((run.name, run.seed))
            if record is not None:
                _write(definition, run.folder, record, run.kind != TEACHER)
        record = _begin(definition)
        while 'winner' not in record:
            stage = race.stage_of(definition, record)
            assert stage is not None, 'it ends with a winner'
            race.settle(definition, record, stage, {})
        return record


def _begin(definition: Definition) -> dict[str, Any]:
    """Return the record of a race that has its rate, its rows and all the time that it wants."""
    long, given = definition.methods.get(race_plan.LONG), Race(math.inf, rates=(1.0,))
    rows: dict[str, Any] = {name: {} for name in definition.methods if name != race_plan.LONG}
    fixed = dict.fromkeys([CONTROL, *rows], 'longer rows are those of the suite')
    record = race_plan.planned(definition, given, rows, dict.fromkeys([CONTROL, *rows], FREE), fixed)
    return {**record, 'long': long.length if long else None, 'left_out': {}}


def _write(definition: Definition, folder: Path, record: Record, rung: bool) -> None:
    write_json(folder / 'result.json', record['result'])
    if rung:
        value = _middle(record['curve'])
        if value is None:
            raise ValueError(f'races: {folder.parent.name} has no score on val in the middle of its schedule')
        write_json(folder / RUNG, {'metrics': {'val': {definition.metric: value}}, 'minutes': 0.0})


def _middle(curve: Mapping[str, float]) -> float | None:
    end = max(map(int, curve), default=0)
    return next((value for step, value in curve.items() if 2 * int(step) == end), None)
