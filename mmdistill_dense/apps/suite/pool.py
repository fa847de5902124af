"""Do several runs at a time, each in its own process, and tell their progress."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.engine.resume import latest_checkpoint
from mmdistill_dense.utils.files import in_use, write_json
from mmdistill_dense.utils.process import wait_briefly

TOLD_EVERY = 10.0  # seconds between two reports


class Board:
    """Prints the progress of ``runs``, ``jobs`` at a time."""

    def __init__(self, console: Console, runs: Sequence[Run], jobs: int) -> None:
        self.console = console
        self.count, self.jobs = len(runs), jobs
        self.said = time.monotonic()
        self.minutes = {run: result['minutes'] for run in runs if (result := run.result)}
        self.before: dict[Run, dict[str, Any]] = {}  # what an earlier process had told when a run was started

    def started(self, run: Run) -> None:
        """Print that a run starts or goes on, and from where."""
        self.before[run] = run.state
        found = latest_checkpoint(run.folder)
        self.say(f'{run.title}: {f"goes on from {found.name}" if found else "starts"}')

    def ended(self, run: Run, failure: str | None) -> None:
        """Print the score or the failure."""
        result = run.result
        if failure is not None or result is None:
            self.say(f'{run.title}: FAILED ({(failure or "").splitlines()[0]})')
            return
        self.minutes[run] = result['minutes']
        split = 'val' if result.get('test_is_val') else 'test'
        self.say(f'{run.title}: {result["score"]:.2f} on {split} after {clock(60 * result["minutes"])}')

    def tick(self, running: Sequence[Run], waiting: Sequence[Run], elsewhere: int = 0) -> None:
        """Print a line for each running one, if the last are old; other processes do ``elsewhere`` of the waiting."""
        if time.monotonic() - self.said < TOLD_EVERY:
            return
        self.said = time.monotonic()
        # what an interrupted process left is not done any more
        states = {run: {} if (state := run.state) == self.before.get(run) else state for run in running}
        for run, state in states.items():
            self.say(progress_of(run, state))
        others = f'{elsewhere} in other processes, ' if elsewhere else ''
        left = clock(time_left(self.minutes, states, waiting, self.jobs))
        done = f'{len(self.minutes)} of {self.count} done, {len(waiting) - elsewhere} waiting'
        self.say(f'{done}, {others}{left} left')

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def progress_of(run: Run, state: Mapping[str, Any]) -> str:
    """Return the line of a running run."""
    whole, loss, phase = state.get('iterations'), state.get('loss'), state.get('phase', 'starting')
    if phase == 'preparing' and 'prepared' in state:
        part = {**state['prepared'], 'seconds': state['seconds']}
        return f'{run.title}  {phase} {part["iteration"]}/{part["iterations"]}  {_rest(part)} left of it'
    if phase != 'training' or not whole:
        return f'{run.title}  {phase}'
    told = ['' if loss is None else f'loss {loss:.3f}', f'val {state["val"]["value"]:.4g}' if 'val' in state else '']
    return '  '.join(filter(None, [run.title, f'{state["iteration"]}/{whole}', *told, f'{_rest(state)} left']))


def _rest(state: Mapping[str, Any]) -> str:
    left = _projected(state)
    return clock(None if left is None else left - state['seconds'])


def _projected(state: Mapping[str, Any]) -> float | None:
    """The seconds of a whole run at its speed since the last start, without its test."""
    iteration, whole = state.get('iteration') or 0, state.get('iterations')
    done = iteration - (state.get('first') or 0)
    if done <= 0 or not whole:
        return None
    return state['seconds'] + (state['seconds'] - state['began']) / done * (whole - iteration)


def time_left(
    minutes: Mapping[Run, float], running: Mapping[Run, Mapping[str, Any]], waiting: Sequence[Run], jobs: int
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


TICK = 0.2
LOOK = 2.0  # seconds between two looks at what other pools do
STALLS = 2  # how often a run that makes no step is started again
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
BURIAL = 2.0  # seconds to wait for the workers of a killed job
TAIL = 15  # lines shown of a failed run's log
FULL = 16 * 2**20  # bytes left on a disk that counts as full: less than a checkpoint


@dataclass
class Job:
    """A run and its process."""

    run: Run
    process: subprocess.Popen[bytes]
    log: Path
    told: Any = None  # the time of its last report
    heard: float = field(default_factory=time.monotonic)  # when it was seen


class Pool:
    """Starts each run when the results that it needs are there and one of ``jobs`` slots is free.

    Several pools, also of several machines, may work on one suite: each run's folder has a lock, and a pool leaves the
    runs alone that another process does.
    """

    def __init__(
        self,
        command: Callable[[Run], list[str]],
        jobs: int,
        threads: int,
        board: Board,
        news: Callable[[], None] = lambda: None,
        stall: float | None = None,
    ) -> None:
        self.command, self.jobs, self.threads, self.board = command, jobs, threads, board
        self.news = news  # called when a run has ended or was evaluated
        self.told: list[Any] = []
        self.stall = stall  # minutes without a report
        self.stalled: Counter[Path] = Counter()
        self.devices = visible_devices()
        self.waiting: list[Run] = []
        self.running: dict[int, Job] = {}  # by slot
        self.failed: dict[Path, str] = {}  # the reasons
        self.elsewhere: set[Path] = set()  # the waiting runs that other processes did at the last look
        self.looked = -LOOK

    def execute(self, todo: Sequence[Run]) -> dict[str, str]:
        """Do runs, which include all that they depend on. A failed run stops only its dependents."""
        self.waiting, self.running, self.failed = list(todo), {}, {}
        titles = {run.folder: run.title for run in todo}
        try:
            while self.waiting or self.running:
                self._collect()
                self._wake()
                self._look()
                self._skip(titles)
                self._start()
                if not self.running and not self.elsewhere:
                    self._give_up()
                running = [job.run for job in self.running.values()]
                self.board.tick(running, self.waiting, len(self.elsewhere))
                now = [(run.title, run.state.get('val')) for run in running]
                if self.told and now != self.told:
                    self.news()
                self.told = now
                time.sleep(TICK)
        finally:
            end([job.process for job in self.running.values()])
        return {titles[folder]: reason for folder, reason in self.failed.items()}

    def _look(self) -> None:
        """See which of the waiting runs other processes do or have done."""
        if time.monotonic() - self.looked < LOOK:
            return
        self.elsewhere = {run.folder for run in self.waiting if in_use(run.folder)}
        for run in [run for run in self.waiting if run.folder not in self.elsewhere]:
            if run.result is not None:
                self.waiting.remove(run)
                self.board.ended(run, None)
        self.looked = time.monotonic()

    def _collect(self) -> None:
        for slot, job in list(self.running.items()):
            code = job.process.poll()
            if code is None:
                continue
            del self.running[slot]
            end([job.process])  # with its group: a loader's worker whose last batch nobody took would wait for ever
            if code == os.EX_TEMPFAIL:  # another process does this run
                self.looked = -LOOK
                self.waiting.insert(0, job.run)
            elif code != 0 or job.run.result is None:
                self._fail(job, f'ended with code {code}{no_room(job.run.folder)}\n  the end of {job.log}:')
            else:
                self.board.ended(job.run, None)

    def _fail(self, job: Job, reason: str) -> None:
        """Tell a failure with the end of the log; keep its reason for ``suite list``."""
        self.failed[job.run.folder] = f'{reason}\n{tail(job.log)}'
        with suppress(OSError):
            write_json(job.run.folder / 'state.json', {**job.run.state, 'failed': reason.splitlines()[0]})
        self.board.ended(job.run, reason)

    def _wake(self) -> None:
        """End runs that have stalled; each starts again from its last checkpoint, at most ``STALLS`` times."""
        for slot, job in list(self.running.items()) if self.stall else ():
            told, now = job.run.state.get('time'), time.monotonic()
            if told != job.told:
                job.told, job.heard = told, now
            if self.stall is None or now - job.heard < 60 * self.stall:
                continue
            end([job.process])
            del self.running[slot]
            self.stalled[job.run.folder] += 1
            if self.stalled[job.run.folder] <= STALLS:
                self.waiting.insert(0, job.run)
                self.board.say(f'{job.run.title}: no step for {self.stall} min, ended; it starts again')
            else:
                self._fail(job, f'made no step for {self.stall} min, {STALLS + 1} times')

    def _drop(self, run: Run, reason: str) -> None:
        """Give up a run that was not started."""
        self.waiting.remove(run)
        self.failed[run.folder] = reason
        self.board.ended(run, reason)

    def _skip(self, titles: Mapping[Path, str]) -> None:
        for run in list(self.waiting):
            lost = [titles[folder] for folder in run.after if folder in self.failed]
            if lost:
                self._drop(run, f'needs {", ".join(lost)}')

    def _start(self) -> None:
        for slot in (slot for slot in range(self.jobs) if slot not in self.running):
            free = (run for run in self.waiting if run.folder not in self.elsewhere)
            ready = next((run for run in free if not _missing(run)), None)
            if ready is None:
                return
            if full := no_room(ready.folder):
                for run in list(self.waiting):
                    self._drop(run, f'was not started{full}')
                return
            self.waiting.remove(ready)
            self.running[slot] = self._launch(ready, slot)
            self.board.started(ready)

    def _give_up(self) -> None:
        for run in list(self.waiting):
            self._drop(run, f'needs results that none of these runs gives: {", ".join(map(str, _missing(run)))}')

    def _launch(self, run: Run, slot: int) -> Job:
        run.folder.mkdir(parents=True, exist_ok=True)
        log = run.folder / 'log.txt'
        threads = str(self.threads)
        environment = dict(os.environ, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
        wait_briefly(environment)
        if len(self.devices) > 1:
            environment['CUDA_VISIBLE_DEVICES'] = self.devices[slot % len(self.devices)]
        with open(log, 'ab') as file:
            # in a group of its own: Ctrl-C reaches only this process, which then ends the group with its loader workers
            process = subprocess.Popen(
                self.command(run),
                env=environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Job(run, process, log)


def _missing(run: Run) -> list[Path]:
    return [folder for folder in run.after if not (folder / 'result.json').is_file()]


def job_command(definition: Path, run: Run) -> list[str]:
    """Return the command line of a run that ends with this process."""
    return [sys.executable, '-m', 'mmdistill_dense', 'suite', *job_words(definition, run), '--attended']


def job_words(definition: Path, run: Run) -> list[str]:
    """Return the command line of a run, without the program."""
    return ['job', str(definition), run.name, '--seed', str(run.seed)]


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use."""
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    if given is not None:
        return [device for device in given.split(',') if device.strip() not in ('', '-1')]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines() if log.is_file() else []
    return '\n'.join(f'    {line}' for line in [line for line in lines if line.strip()][-TAIL:])


def no_room(folder: Path) -> str:
    """Return what to add to a failure if the disk of a folder is full: the log may have had no room to say so."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    left = shutil.disk_usage(there).free
    if left > FULL:
        return ''
    return f': the disk of {folder} is full, {left // 2**20} MiB are left. Make room; the same command goes on'


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes that :class:`Pool` started, with their groups, by SIGTERM and then by SIGKILL."""
    for process in processes:
        process.terminate()  # it alone: it saves, while its workers live
    limit = time.monotonic() + GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, limit - time.monotonic()))
        with suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
            os.killpg(process.pid, signal.SIGKILL)  # also the rest of its group
        process.wait()
        # Killed processes disappear a little later. Zombies that nobody collects never do, hence the limit.
        burial = time.monotonic() + BURIAL
        with suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < burial:
                os.killpg(process.pid, 0)
                time.sleep(0.01)
        if process.stdin is not None:
            process.stdin.close()


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into :class:`KeyboardInterrupt`, as for Ctrl-C."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def end_with_parent() -> None:
    """End this process when its standard input closes, and its group if it leads one.

    A killed parent cannot end its jobs, but the system then closes its end of the pipe. A process that is stopped would
    not see that and would keep its folder's lock for ever, so Linux lets it go on when the parent ends.
    """
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGCONT)  # 1: PR_SET_PDEATHSIG

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock a forked loader worker would find taken
            pass
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
