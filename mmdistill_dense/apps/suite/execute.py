"""Do the unfinished runs of a suite."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Console

from mmdistill_dense.apps.suite import preflight
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.job import PATIENCE
from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.apps.suite.pool import Board, Pool, interruptible, job_command
from mmdistill_dense.utils.files import owned
from mmdistill_dense.utils.process import cores, heartbeat, quiet, threads_asked_for

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
            with heartbeat('checking the runs'), quiet():
                preflight.check(definition, todo)
            board, command = Board(console, runs, definition.jobs), partial(job_command, definition.path)
            failed = Pool(command, definition.jobs, threads, board, news, definition.stall).execute(todo)
    except KeyboardInterrupt:
        console.print('stopped; the same command continues from the last checkpoints')
        return None
    for title, reason in failed.items():
        console.print(f'\n{title} {reason}', markup=False, highlight=False, soft_wrap=True)
    return failed
