"""The progress of a suite: a line for each running job, and the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mmdistill_dense.engine.resume_file import latest_checkpoint
from mmdistill_dense.suite.plan.runs import Run

PLAIN_EVERY = 10.0  # seconds between two reports without a terminal
UNITS = {'iter': 'iteration', 'epoch': 'epoch'}  # by the names of checkpoints


class Board:
    """Shows the progress of ``runs``, ``jobs`` at a time: live on a terminal, in plain lines elsewhere."""

    def __init__(self, console: Console, runs: Sequence[Run], jobs: int) -> None:
        self.console = console
        self.runs = list(runs)
        self.jobs = jobs
        self.said = time.monotonic()
        self.minutes: dict[Run, float] = {}
        self.before: dict[Run, dict[str, Any]] = {}  # what an earlier process had told when a run was started
        self.live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        for run in self.runs:
            self._remember(run)

    def __enter__(self) -> Board:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def started(self, run: Run) -> None:
        """Print that a run starts or goes on, and from where, unless on a terminal."""
        self.before[run] = run.state
        if not self.live:
            found = latest_checkpoint(run.folder)
            unit, _, number = found.stem.partition('_') if found else ('', '', '')
            place = f'after {UNITS[unit]} {number}' if found else ''
            self._print(f'{run.title}: ' + (f'goes on {place}, its last checkpoint' if found else 'starts'))

    def ended(self, run: Run, failure: str | None) -> None:
        """Print the score or the failure."""
        result = run.result
        if failure is not None or result is None:
            self._print(f'{run.title}: FAILED ({(failure or "").splitlines()[0]})')
            return
        self._remember(run)
        split = 'val' if run.kind == 'search' or result.get('test_is_val') else 'test'
        found = 'trained' if result['score'] is None else f'{result["score"]:.2f} on {split}'
        self._print(f'{run.title}: {found} after {clock(60 * result["minutes"])}')

    def tick(self, running: Sequence[Run], waiting: Sequence[Run]) -> None:
        """Update the lines."""
        if self.live is None and time.monotonic() - self.said < PLAIN_EVERY:
            return
        self.said = time.monotonic()
        states = {run: self._state(run) for run in running}
        left = time_left(self.minutes, states, waiting, self.jobs)
        total = f'{len(self.minutes)} of {len(self.runs)} done, {len(waiting)} waiting, {clock(left)} left'
        if self.live:
            self.live.update(Group(_table(states), Text(total)))
            return
        for run, state in states.items():
            self._print('  '.join(_cells(run, state)))
        self._print(total)

    def _state(self, run: Run) -> dict[str, Any]:
        """Return what the started process has told; what an interrupted one left is not done any more."""
        state = run.state
        return {} if state and state == self.before.get(run) else state

    def _remember(self, run: Run) -> None:
        result = run.result
        if result is not None:
            self.minutes[run] = result['minutes']

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _table(states: dict[Run, dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for run, state in states.items():
        title, *said = _cells(run, state)
        bar = ProgressBar(state.get('iterations') or 1, state.get('iteration') or 0, width=20)
        table.add_row(title, bar, *said)
    return table


def _cells(run: Run, state: dict[str, Any]) -> list[str]:
    done, whole, loss = state.get('iteration') or 0, state.get('iterations'), state.get('loss')
    phase = state.get('phase', 'starting')
    if phase == 'preparing' and 'prepared' in state:
        part = {**state['prepared'], 'seconds': state['seconds']}
        return [run.title, f'{phase} {part["iteration"]}/{part["iterations"]}', '', f'{_rest(part)} left of it']
    if phase != 'training' or not whole:
        return [run.title, phase, '', '']
    return [run.title, f'{done}/{whole}', '' if loss is None else f'loss {loss:.3f}', f'{_rest(state)} left']


def _rest(state: dict[str, Any]) -> str:
    left = _projected(state)
    return clock(None if left is None else left - state['seconds'])


def _projected(state: dict[str, Any]) -> float | None:
    """The seconds of a whole run at its speed since the last start, without its test."""
    iteration, whole = state.get('iteration') or 0, state.get('iterations')
    done = iteration - (state.get('first') or 0)
    if done <= 0 or not whole:
        return None
    return state['seconds'] + (state['seconds'] - state['began']) / done * (whole - iteration)


def time_left(
    minutes: dict[Run, float], running: dict[Run, dict[str, Any]], waiting: Sequence[Run], jobs: int
) -> float | None:
    """Estimate the seconds left, from the minutes of finished runs and the states of running ones.

    A run takes as long as the mean of those of the same name, finished or running, or else as the mean of all.
    """
    known: dict[str, list[float]] = {}
    projected = {run: _projected(state) for run, state in running.items()}
    for run, value in [*((run, 60 * value) for run, value in minutes.items()), *projected.items()]:
        if value is not None:
            known.setdefault(run.name, []).append(value)
    if not known:
        return None
    overall = fmean(fmean(values) for values in known.values())

    def expected(run: Run) -> float:
        return fmean(known.get(run.name, [overall]))

    rest = [expected(run) for run in waiting]
    for run, state in running.items():
        rest.append(max(0.0, (projected[run] or expected(run)) - state.get('seconds', 0.0)))
    return max([*rest, sum(rest) / jobs], default=0.0)


def clock(seconds: float | None) -> str:
    """Return a duration as text."""
    if seconds is None:
        return '?'
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours} h {minutes:02d} min'
    return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'
