"""Do several runs at a time, each in its own process. The processes end with this one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdistill_dense.suite.execute.progress import Board
from mmdistill_dense.suite.plan.runs import Run, choice_name
from mmdistill_dense.utils.threads import wait_briefly

TICK = 0.2
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


class Pool:
    """Starts each run when the results that it needs are there and one of ``jobs`` slots is free."""

    def __init__(self, command: Callable[[Run], list[str]], jobs: int, threads: int, board: Board) -> None:
        self.command = command
        self.jobs = jobs
        self.threads = threads
        self.board = board
        self.devices = visible_devices()

    def execute(self, todo: Sequence[Run]) -> dict[str, str]:
        """Do runs, which include all that they depend on. A failed run stops only its dependents.

        Returns:
            The reasons of failures, by the title of the run.
        """
        waiting, running, failed = list(todo), dict[int, Job](), dict[Path, str]()
        titles = {run.folder: run.title for run in todo}
        try:
            while waiting or running:
                self._collect(running, failed)
                self._skip(waiting, failed, titles)
                self._start(waiting, running)
                if not running:
                    self._give_up(waiting, failed)
                self.board.tick([job.run for job in running.values()], waiting)
                time.sleep(TICK)
        finally:
            end([job.process for job in running.values()])
        return {titles[folder]: reason for folder, reason in failed.items()}

    def _collect(self, running: dict[int, Job], failed: dict[Path, str]) -> None:
        for slot, job in list(running.items()):
            code = job.process.poll()
            if code is None:
                continue
            del running[slot]
            end([job.process])  # with its group: a loader's worker whose last batch nobody took would wait for ever
            if code != 0 or job.run.result is None:
                failed[job.run.folder] = (
                    f'ended with code {code}{no_room(job.run.folder)}\n  the end of {job.log}:\n{tail(job.log)}'
                )
            self.board.ended(job.run, failed.get(job.run.folder))

    def _skip(self, waiting: list[Run], failed: dict[Path, str], titles: dict[Path, str]) -> None:
        for run in list(waiting):
            lost = [titles[folder] for folder in run.after if folder in failed]
            if lost:
                waiting.remove(run)
                failed[run.folder] = f'needs {", ".join(lost)}'
                self.board.ended(run, failed[run.folder])

    def _start(self, waiting: list[Run], running: dict[int, Job]) -> None:
        for slot in (slot for slot in range(self.jobs) if slot not in running):
            ready = next((run for run in waiting if all((f / 'result.json').is_file() for f in run.after)), None)
            if ready is None:
                return
            waiting.remove(ready)
            running[slot] = self._launch(ready, slot)
            self.board.started(ready)

    def _give_up(self, waiting: list[Run], failed: dict[Path, str]) -> None:
        for run in waiting:
            missing = [str(folder) for folder in run.after if not (folder / 'result.json').is_file()]
            failed[run.folder] = f'needs results that none of these runs gives: {", ".join(missing)}'
            self.board.ended(run, failed[run.folder])
        waiting.clear()

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


def job_command(definition: Path, run: Run) -> list[str]:
    """Return the command line of a run that ends with this process."""
    return [sys.executable, '-m', 'mmdistill_dense.suite.cli', *job_words(definition, run), '--attended']


def job_words(definition: Path, run: Run) -> list[str]:
    """Return the command line of a run, without the program."""
    words = ['job', str(definition), run.name, '--seed', str(run.seed)]
    return [*words, '--search', choice_name(run.choice or {})] if run.kind == 'search' else words


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
    left = shutil.disk_usage(folder).free
    if left > FULL:
        return ''
    return f': the disk of {folder} is full, {left // 2**20} MiB are left. Make room; the same command goes on'


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes that :class:`Pool` started, with their groups, by SIGTERM and then by SIGKILL."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    limit = time.monotonic() + GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, limit - time.monotonic()))
        _signal(process, signal.SIGKILL)  # also the rest of its group
        process.wait()
        _wait_for_group(process)
        _close(process)


def _wait_for_group(process: subprocess.Popen[bytes]) -> None:
    # Killed processes disappear a little later. Zombies that nobody collects never do, hence the limit.
    limit = time.monotonic() + BURIAL
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < limit:
            os.killpg(process.pid, 0)
            time.sleep(0.01)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
        os.killpg(process.pid, number)


def _close(process: subprocess.Popen[bytes]) -> None:
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

    A killed parent cannot end its jobs, but the system then closes its end of the pipe.
    """

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock a forked loader worker would find taken
            pass
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
