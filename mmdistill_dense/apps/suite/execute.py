"""Do runs of a suite; do a race: measure what its candidates take, plan it, do its stages."""

from __future__ import annotations

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
from mmdistill_dense.apps.suite.definition import Definition, Race, load
from mmdistill_dense.apps.suite.job import PATIENCE
from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER, Run
from mmdistill_dense.apps.suite.pool import Board, Pool, interruptible, job_command, no_room
from mmdistill_dense.apps.suite.price import price_of
from mmdistill_dense.apps.suite.race import METHODS, Price, Record
from mmdistill_dense.apps.suite.reader import read_file
from mmdistill_dense.utils.directories import owned
from mmdistill_dense.utils.messages import text_of
from mmdistill_dense.utils.quiet import alive, quiet
from mmdistill_dense.utils.threads import cores, threads_asked_for

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
) -> int:
    """Do what is left of a race with the rows of the definition and the usual methods; return the exit code."""
    # ``settle_for`` replaces values of the definition; of a race that has begun only the hours of ``given`` count
    definition = load(path)
    with owned(definition.out, f'the plan of the race {definition.title!r}', PATIENCE):
        record = _planned(definition, given or definition.race, methods, settle_for or {})
    for line in race.lines(record):
        print(line, flush=True)
    while not plan_only:
        definition = replace(load(path), **(settle_for or {}))
        stage = race.stage_of(definition, record)
        if stage is None:
            return 0
        failed = do_runs(definition, stage.runs, news=news)
        if failed is None:
            return INTERRUPTED
        if failed and (len(failed) == len(stage.runs) or no_room(definition.out)):
            return 1
        told = len(record['told'])
        record = _settled(definition, record, stage, failed)
        for sentence in record['told'][told:]:
            print(f'race     {sentence}', flush=True)
    return 0


def runs_to_do(path: Path) -> Sequence[Run]:
    """Decide what the finished stages of a race say, and return the runs of its next one."""
    definition = load(path)
    record = race.read(definition)
    if record is None:
        raise ValueError(
            f'{path}: the race has no plan yet. `mmdistill suite run {path} --plan` measures the steps and writes it: '
            'give that command on a machine like those that train.'
        )
    while stage := race.stage_of(definition, record):
        if any(run.result is None for run in stage.runs):
            return stage.runs
        record = _settled(definition, record, stage, {})
        definition = load(path)
    return ()


def _settled(definition: Definition, record: Record, stage: race.Stage, failed: Mapping[str, str]) -> Record:
    """Decide, unless another process has."""
    with owned(definition.out, 'the race', PATIENCE):
        known = race.read(definition) or record
        if stage.name not in known['spent']:
            race.settle(definition, known, stage, failed)
            race.write(definition, known)
    return known


def _planned(definition: Definition, given: Race | None, methods: Sequence[str], more: Mapping[str, Any]) -> Record:
    record = race.read(definition)
    if record is not None:
        if given is not None and given.hours != record['hours']:
            record.update(hours=given.hours)
            record.pop('over', None)
            race.write(definition, record)
        return record
    if given is None:
        raise ValueError(f'{definition.path}: race: missing; e.g. race: {{hours: 3}}')
    own, rows = rows_for(definition, methods)
    definition = replace(load(definition.path, rows), **more)
    preflight.check(definition, plan.runs(definition)[:1])
    with alive('measuring steps'), quiet():
        prices, lost = _prices(definition, own)
    control = configs.control_config(definition)
    try:
        lengths.scale_run(control, 2 * control.train_cfg[lengths.unit_of(control)])
    except ValueError as error:
        lost[race.LONG] = text_of(error).splitlines()[0]
    record = race.planned(definition, given, rows, prices, race.LONG not in lost)
    record['left_out'].update(lost)
    race.write(definition, record)
    return record


def rows_for(definition: Definition, methods: Sequence[str]) -> tuple[set[str], dict[str, Any]]:
    """Return the rows that were asked for, and all rows to try, as in a definition."""
    given = read_file(definition.path)['methods']
    given = {name: {} for name in definition.methods} if given == 'all' else given
    if methods:
        return set(methods), {name: given.get(name, {'settings': 'auto'}) for name in methods}
    usual = [name for name in METHODS[definition.task] if compose.options_for(name, definition.control)]
    return set(given), {**given, **{name: {'settings': 'auto'} for name in usual if name not in given}}


def _prices(definition: Definition, own: set[str]) -> tuple[dict[str, Price], dict[str, str]]:
    """Return the prices by row, and why rows that nobody asked for are left out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(definition.threads or threads_asked_for() or max(1, cores() // definition.jobs))
    found, lost = {CONTROL: price_of(configs.control_config(definition))}, dict[str, str]()
    teacher = next((run for run in plan.runs(definition) if run.kind == TEACHER), None)
    if teacher is not None and definition.teacher is not None and plan.trains_teacher(definition):
        found[TEACHER] = price_of(configs.teacher_config(definition, definition.teacher))
    for name, method in definition.methods.items():
        try:
            found[name] = price_of(configs.method_config(definition, method))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if name in own:
                raise
            lost[name] = text_of(error).splitlines()[0]
    torch.set_num_threads(threads)
    return found, lost
