"""Do the runs of a suite; do a race: measure its candidates, plan it, do its stages."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.suite import configs, lengths, plan, preflight, race
from mmdistill_dense.apps.suite.definition import RACE, Definition, Race, load
from mmdistill_dense.apps.suite.job import PATIENCE, check_unchanged, rung_of
from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER, Run
from mmdistill_dense.apps.suite.pool import Board, Pool, interruptible, job_command, no_room
from mmdistill_dense.apps.suite.price import price_of
from mmdistill_dense.apps.suite.race_plan import LONG, METHODS, Price, Record, alone_row, lines, planned
from mmdistill_dense.apps.suite.reader import read_file
from mmdistill_dense.utils.files import owned, read_json, write_json
from mmdistill_dense.utils.process import alive, cores, quiet, threads_asked_for
from mmdistill_dense.utils.validate import text_of

INTERRUPTED = 130


def do_runs(
    definition: Definition,
    runs: Sequence[Run],
    rerun_changed: bool = False,
    news: Callable[[], None] = lambda: None,
) -> dict[str, str] | None:
    """Do the unfinished ones of some runs. Return the failures by title; ``None`` after an interruption."""
    threads = definition.threads or threads_asked_for() or max(1, cores() // definition.jobs)
    console = Console(file=sys.stdout)
    try:
        with interruptible():
            with owned(definition.out, f'the start of suite {definition.title!r}', PATIENCE):
                todo = preflight.unfinished(definition, runs, rerun_changed)
            preflight.check_batch(definition, todo, 1)
            start = f'{definition.title}: {len(runs)} runs, {len(todo)} to do, in {definition.out}'
            console.print(start, markup=False, highlight=False, soft_wrap=True)
            with alive('checking the runs'), quiet():
                preflight.check(definition, todo)
            board, command = Board(console, runs, definition.jobs), partial(job_command, definition.path)
            failed = Pool(command, definition.jobs, threads, board, news, definition.stall).execute(todo)
    except KeyboardInterrupt:
        console.print('stopped; the same command continues from the last checkpoints')
        return None
    for title, reason in failed.items():
        console.print(f'\n{title} {reason}', markup=False, highlight=False, soft_wrap=True)
    return failed


def run_race(
    path: Path,
    given: Race | None = None,
    methods: Sequence[str] = (),
    settle_for: Mapping[str, Any] | None = None,
    news: Callable[[], None] = lambda: None,
    plan_only: bool = False,
    rerun_changed: bool = False,
) -> int:
    """Do what is left of a race with the rows of the definition and the usual methods; return the exit code."""
    # ``settle_for`` replaces values of the definition; of a race that has begun only the hours of ``given`` count
    definition = load(path)
    given = given or definition.race
    with owned(definition.out, f'the plan of the race {definition.title!r}', PATIENCE):
        before = read_json(definition.out / RACE)
        if rerun_changed and before is not None and _changed(definition, before):
            (definition.out / RACE).unlink()
            definition = load(path)
        record = _planned(definition, given, methods, settle_for or {})
    for line in lines(record):
        print(line, flush=True)
    while not plan_only:  # rows are known to the definition as soon as a stage has them
        definition = replace(load(path), **(settle_for or {}))
        stage = race.stage_of(definition, record)
        if stage is None:
            return 0
        failed = do_runs(definition, stage.runs, rerun_changed, news) if stage.runs else {}
        if failed is None:
            return INTERRUPTED
        if failed and (_all_failed(stage, failed) or no_room(definition.out)):
            return 1
        told = record['told']
        record = _settled(definition, record, stage, failed)
        for sentence in record['told']:
            if sentence not in told:
                print(f'race     {sentence}', flush=True)
    return 0


def _all_failed(stage: race.Stage, failed: Mapping[str, str]) -> bool:
    """Whether that tells of the machine or the data. One candidate may fail by itself; the last seeds decide little."""
    return len(failed) == len(stage.runs) > 1 and not stage.name.startswith(('longer', 'more'))


def runs_to_do(path: Path) -> Sequence[Run]:
    """Decide what the finished stages of a race say, and return the runs of its next one.

    A run that failed is one of these: only where the runs are done, it is left out.
    """
    definition = load(path)
    with owned(definition.out, f'the plan of the race {definition.title!r}', PATIENCE):
        record = read_json(definition.out / RACE)
        if record is None:
            raise ValueError(
                f'{path}: the race has no plan yet. `mmdistill suite run {path} --plan` measures the steps and writes '
                'it: give that command on a machine like those that train.'
            )
        _go_on(definition, record, definition.race)
    definition = load(path)
    while stage := race.stage_of(definition, record):
        if any(run.result is None for run in stage.runs):
            return stage.runs
        record = _settled(definition, record, stage, {})
        definition = load(path)
    return ()


def _settled(definition: Definition, record: Record, stage: race.Stage, failed: Mapping[str, str]) -> Record:
    """Decide, unless another process has."""
    with owned(definition.out, 'the race', PATIENCE):
        known = read_json(definition.out / RACE) or record
        if race.stage_of(load(definition.path), known) == stage:
            race.settle(definition, known, stage, failed)
            write_json(definition.out / RACE, known)
    return known


def _planned(definition: Definition, given: Race | None, methods: Sequence[str], more: Mapping[str, Any]) -> Record:
    record = read_json(definition.out / RACE)
    if record is not None:
        _go_on(definition, record, given, methods)
        return record
    if given is None:
        raise ValueError(f'{definition.path}: race: missing; e.g. race: {{hours: 3}}')
    own, rows = rows_for(definition, methods)
    if taken := [name for name in rows if name in (LONG, *map(alone_row, given.rates))]:
        raise ValueError(f'{definition.path}: methods.{taken[0]}: a race has a row of this name. Rename yours.')
    definition = replace(load(definition.path, rows), **more)
    preflight.check(definition, plan.runs(definition)[:1])
    with alive('measuring steps'), quiet():
        prices, lost = _prices(definition, own)
    fixed = {name: why for name in (CONTROL, *rows) if name not in lost and (why := _why_fixed(definition, name))}
    record = planned(definition, given, rows, prices, fixed, part_of(definition, given.rung))
    record['left_out'].update(lost)
    record['given'] = {**_own(definition, given), 'asked': list(methods)}
    write_json(definition.out / RACE, record)
    return record


def _go_on(definition: Definition, record: Record, given: Race | None, methods: Sequence[str] = ()) -> None:
    """Go on with a race that has begun, in other hours if it is given them."""
    assert given is not None, 'a definition with a record has a race'
    check_given(definition, record, given, methods)
    if changed := _changed(definition, record):
        raise changed
    if given.hours != record['hours']:
        race.give_hours(definition, record, given.hours)
        write_json(definition.out / RACE, record)


def _changed(definition: Definition, record: Record) -> ValueError | None:
    """Why the results of a race are not comparable with those to come: its definition gives other configs now."""
    runs = plan.runs(definition)
    if 'rate' not in record:  # the rates and lengths of the other rows are not known yet
        known = {TEACHER, *map(alone_row, record['rates'])}
        runs = [run for run in runs if run.name in known]
    for run, expected in plan.hashes(definition, runs):
        try:
            if expected is not None and run.result is not None:
                check_unchanged(run, expected)
        except ValueError as error:
            return error
    return None


def _own(definition: Definition, given: Race) -> dict[str, Any]:
    """What a definition says of its race, but for the hours, as in a file."""
    text = read_file(definition.path)
    race_options = {key: value for key, value in vars(given).items() if key != 'hours'}
    return json.loads(json.dumps({'methods': text['methods'], 'seeds': text.get('seeds'), 'race': race_options}))


def check_given(definition: Definition, record: Record, given: Race, methods: Sequence[str]) -> None:
    """Refuse to go on with a race whose definition says something else than when it was planned."""
    now, before = _own(definition, given), record['given']
    changed = [key for key in now if now[key] != before[key]]
    changed += ['--only, --method'] if methods and [*methods] != before['asked'] else []
    if changed:
        raise ValueError(
            f'{definition.path}: {", ".join(changed)}: not as when the race in {definition.out} was planned. Undo the '
            f'change, set another `out`, or remove {definition.out / RACE}: the race is then planned anew, and keeps '
            'the runs that still belong to it.'
        )


def part_of(definition: Definition, rung: float) -> float:
    """Return the share of the control's schedule at which it is evaluated next after a rung; 1 for its end."""
    config = configs.control_config(definition)
    place = rung_of(config, rung)
    return 1.0 if place is None else place / config.train_cfg[lengths.unit_of(config)]


def rows_for(definition: Definition, methods: Sequence[str]) -> tuple[set[str], dict[str, Any]]:
    """Return the rows that were asked for, and all rows to try, as in a definition.

    Those that the definition does not have see the pictures without labels that its first such row sees.
    """
    given = read_file(definition.path)['methods']
    given = {name: {} for name in definition.methods} if given == 'all' else given
    own = (configs.row_config(definition, name).model.get('unlabelled') for name in definition.methods)
    unlabelled = next(filter(None, own), None)
    usual = {'settings': 'auto', **({'unlabelled': unlabelled.to_dict()} if unlabelled else {})}
    if methods:
        return set(methods), {name: given.get(name, usual) for name in methods}
    fitting = [name for name in METHODS[definition.task] if compose.options_for(name, definition.control)]
    return set(given), {**given, **{name: usual for name in fitting if name not in given}}


def _prices(definition: Definition, own: set[str]) -> tuple[dict[str, Price], dict[str, str]]:
    """Return the prices by row, and why rows that nobody asked for are left out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(definition.threads or threads_asked_for() or max(1, cores() // definition.jobs))
    found, lost = {CONTROL: price_of(configs.control_config(definition))}, dict[str, str]()
    teacher = next((run for run in plan.runs(definition) if run.kind == TEACHER), None)
    trained = teacher is None or teacher.result is not None
    if not trained and definition.teacher is not None and plan.trains_teacher(definition):
        found[TEACHER] = price_of(configs.teacher_config(definition, definition.teacher))
    for name in definition.methods:
        try:
            config = configs.row_config(definition, name)
            lengths.fit(definition, name, config)
            found[name] = price_of(config)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if name in own:
                raise
            lost[name] = text_of(error).splitlines()[0]
    torch.set_num_threads(threads)
    return found, lost


def _why_fixed(definition: Definition, name: str) -> str:
    """Why a row cannot be longer; empty if it can."""
    config = configs.row_config(definition, name)
    try:
        lengths.scale_run(config, 2 * config.train_cfg[lengths.unit_of(config)])
    except ValueError as error:
        return text_of(error).splitlines()[0]
    return ''
