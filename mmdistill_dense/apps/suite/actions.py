"""What the commands of ``suite`` do."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from rich.console import Console
from rich.table import Table

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition, fitting_methods, load_suite
from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.config.resolve import reading_once
from mmdistill_dense.utils.files import FolderInUse, in_use, owned
from mmdistill_dense.utils.process import cores, errors_only, interruptible, threads_asked_for

INTERRUPTED = 130
SILENCE_LIMIT = 120.0  # seconds without a report that `list` tells


def suite_run(args: argparse.Namespace) -> int:
    with reading_once():
        definition = load_suite(args.definition)
        jobs, threads = args.jobs or definition.jobs, args.threads or definition.threads
        return train_all(replace(definition, jobs=jobs, threads=threads), args.only, args.seeds)


def train_all(
    definition: Definition,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    on_run_end: Callable[[], None] = lambda: None,  # called when a run has ended
) -> int:
    """Do all unfinished runs, or those of some rows and seeds; return 1 if one failed, 130 after an interruption.

    The config of each run is resolved once, checked, and written when the run begins: what is changed meanwhile does
    not reach the runs of this command.
    """
    from mmdistill_dense.apps.suite import preflight
    from mmdistill_dense.apps.suite.job import LOCK_TIMEOUT
    from mmdistill_dense.apps.suite.pool import Pool, job_words

    threads = definition.threads or threads_asked_for() or max(1, cores() // definition.jobs)
    try:
        with interruptible():
            with reading_once():
                chosen = plan.select(definition, only, seeds)
                with owned(definition.out, f'the start of suite {definition.title!r}', LOCK_TIMEOUT), errors_only():
                    todo = plan.resolved(definition, plan.unfinished(definition, chosen))
                    plan.check_batch(definition, todo, 1)
                print(f'{definition.title}: {len(chosen)} runs, {len(todo)} to do, in {definition.out}', flush=True)
                preflight.check_rows(definition, todo)

            program = [sys.executable, '-m', 'mmdistill_dense', 'suite']

            def begin(run: Run) -> list[str]:
                plan.write_config(run, *todo[run])
                return [*program, *job_words(definition.path, run), '--attended']

            pool = Pool(begin, definition.jobs, threads, partial(print, flush=True), on_run_end, definition.stall)
            failed = pool.execute(list(todo))
    except KeyboardInterrupt:
        print('stopped; the same command continues from the last checkpoints', flush=True)
        return INTERRUPTED
    for title, reason in failed.items():
        print(f'\n{title} {reason}', flush=True)
    return int(bool(failed))


def suite_job(args: argparse.Namespace) -> None:
    if args.attended:
        from mmdistill_dense.apps.suite.pool import end_with_parent

        end_with_parent()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    from mmdistill_dense.apps.suite.job import execute_run

    with reading_once():
        definition = load_suite(args.definition)
        run = find_run(definition, args.name, args.seed)
        args.raises = True  # from here on: the log of a job keeps all
        try:
            result = execute_run(definition, run, args.launcher, args.attended)
        except FolderInUse as error:
            if not args.attended:
                raise
            print(error)
            raise SystemExit(os.EX_TEMPFAIL) from error  # the pool tries another one
    score = f'{definition.metric} {result["score"]:.2f}' if 'score' in result else 'done'
    print(f'{args.name}: {score}')
    if args.attended:  # without the seconds that the interpreter takes to clean up
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def find_run(definition: Definition, name: str, seed: int | None) -> Run:
    runs = plan.runs(definition)
    row_runs = [run for run in runs if run.name == name]
    for run in row_runs:
        if seed == run.seed or (seed is None and (run.is_teacher or run.is_pretraining)):
            return run
    if row_runs:
        titles = ', '.join(run.title for run in row_runs)
        raise ValueError(f'{definition.path}: {name} has no run with --seed {seed}, but {titles}')
    raise ValueError(f'{definition.path}: {compose.unknown("row", name, {run.name for run in runs})}')


def suite_list(args: argparse.Namespace) -> None:
    console = Console(file=sys.stdout)
    if args.definition is None:
        recipes = compose.recipes()
        table = Table('method', 'recipes that it fits', 'for instance')
        for method in compose.methods():
            names = [recipe.stem for recipe in recipes if compose.options_for(method, recipe)]
            table.add_row(method, str(len(names)), ', '.join(names[:2]))
        console.print(table)
        return
    definition = load_suite(args.definition)
    others = {*fitting_methods(definition.control)} - {method.method for method in definition.methods.values()}
    console.print(f'{definition.title}: control {definition.control.stem}, {definition.metric}, in {definition.out}')
    console.print(f'methods: {", ".join(definition.methods)}; others that fit: {", ".join(sorted(others)) or "none"}')
    table = Table('run', 'state', definition.metric)
    for run in plan.runs(definition):
        result = run.result if run.is_pretraining else plan.scored(definition, run)
        score = f'{result["score"]:.2f}' if result and 'score' in result else ''
        table.add_row(run.title, _progress(run) if result is None else 'finished', score)
    console.print(table)


def _progress(run: Run) -> str:
    """What an unfinished run does, or why it does nothing."""
    if not (state := run.state):
        return 'waits'
    done = f'{state.get("iteration")}/{state.get("iterations") or "?"}'
    if not in_use(run.folder):
        return f'FAILED at {done}: {state["failed"]}' if 'failed' in state else f'stopped at {done}'
    silent = time.time() - state.get('time', time.time())
    silence = f', no word for {round(silent / 60)} min' if silent > SILENCE_LIMIT else ''
    return f'{state.get("phase")}, {done} on {state.get("host")}{silence}'


def suite_table(args: argparse.Namespace) -> None:
    from mmdistill_dense.apps.suite.table import write_table

    with reading_once():
        write_table(load_suite(args.definition), args.out)
