"""Do several runs at a time, each in its own process."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.engine.work_folder import latest_checkpoint
from mmdistill_dense.utils.files import in_use, write_json
from mmdistill_dense.utils.process import wait_briefly
from mmdistill_dense.utils.validate import some

POLL_INTERVAL = 2.0  # seconds between two looks at what other pools do
MAX_RESTARTS = 2  # how often a run that makes no step is started again
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
REAP_TIMEOUT = 2.0  # seconds to wait for the workers of a killed job
TAIL = 15  # lines shown of a failed run's log
AGAIN = 'to be started again'
MIN_FREE_BYTES = 16 * 2**20  # bytes left on a disk that counts as full: less than a checkpoint


class Job(NamedTuple):
    run: Run
    device: str | None
    process: subprocess.Popen[bytes]
    begin: float


@dataclass
class Pool:
    """Starts each run when the results that it needs are there and fewer than ``jobs`` processes work.

    Several pools, also of several machines, may work on one suite: each run's folder has a lock, and a pool leaves the
    runs alone that another process does. A process that starts during an interruption ends by :func:`end_with_parent`.
    """

    command: Callable[[Run], list[str]]  # called before a run begins
    jobs: int
    threads: int
    say: Callable[[str], None]
    on_run_end: Callable[[], None] = lambda: None  # called when a run has ended
    stall: float | None = None  # minutes without a report
    stalls: Counter[Run] = field(default_factory=Counter)

    def execute(self, todo: Sequence[Run]) -> dict[str, str]:
        """Do runs, which include all that they depend on; return why some failed, which stops only their dependents."""
        waiting, failed, running = list(todo), dict[str, str](), list[Job]()
        titles, gpus = {run.folder: run.title for run in todo}, visible_devices()
        devices = [gpus[slot % len(gpus)] if len(gpus) > 1 else None for slot in range(self.jobs)]
        next_look, last_news = 0.0, time.monotonic()

        def fail(run: Run, reason: str) -> None:
            failed[run.title] = reason
            self.say(f'{run.title}: FAILED ({reason.splitlines()[0]})')

        try:
            while waiting or running:
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + POLL_INTERVAL
                    for run in list(waiting):
                        if failed_titles := [titles[folder] for folder in run.after if titles.get(folder) in failed]:
                            fail(run, f'needs {", ".join(failed_titles)}')
                        elif run.result is not None:  # another process did it
                            self._report(run)
                        elif devices and not run.missing and not in_use(run.folder):
                            try:
                                running.append(self._start(run, devices[0]))
                                del devices[0]
                            except (OSError, LookupError, ValueError) as error:
                                fail(run, f'was not started: {error}')
                        else:
                            continue
                        waiting.remove(run)
                    if not running and all(run.missing and not in_use(run.folder) for run in waiting):
                        for run in waiting:
                            fail(run, f'needs results that none of these runs gives: {some(run.missing)}')
                        break
                for job in list(running):
                    if (reason := self._outcome(job)) is None:
                        continue
                    next_look = 0.0
                    running.remove(job)
                    devices.append(job.device)
                    if reason == AGAIN:
                        waiting.insert(0, job.run)
                    elif reason:
                        fail(job.run, reason)
                    else:
                        self._report(job.run)
                        self.on_run_end()
                if time.monotonic() - last_news >= (60 if sys.stdout.isatty() else 600):  # seconds
                    last_news = time.monotonic()
                    for line in filter(None, (progress_line(job.run) for job in running)):
                        self.say(line)
                time.sleep(POLL_INTERVAL / 10)
        finally:
            end([job.process for job in running])
        return failed

    def _report(self, run: Run) -> None:
        result = run.result or {}
        split = 'val' if result.get('test_is_val') else 'test'
        score = f'{result["score"]:.2f} on {split}' if 'score' in result else 'done'
        self.say(f'{run.title}: {score} after {clock(60 * result["minutes"])}')

    def _start(self, run: Run, device: str | None) -> Job:
        if full := no_room(run.folder):
            raise OSError(full.removeprefix(': '))
        checkpoint, words = latest_checkpoint(run.folder), self.command(run)
        self.say(f'{run.title}: {f"goes on from {checkpoint.name}" if checkpoint else "starts"}')
        run.folder.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.threads), MKL_NUM_THREADS=str(self.threads))
        wait_briefly(environment)
        if device is not None:
            environment['CUDA_VISIBLE_DEVICES'] = device
        begin, pipe, out = time.time(), subprocess.PIPE, subprocess.STDOUT
        with open(run.folder / 'log.txt', 'ab') as log:
            # in a group of its own: Ctrl-C reaches only this process, which then ends the group with its loader workers
            job = subprocess.Popen(words, env=environment, start_new_session=True, stdin=pipe, stdout=log, stderr=out)
        return Job(run, device, job, begin)

    def _outcome(self, job: Job) -> str | None:
        """Return why a job failed, :data:`AGAIN`, or an empty text if it gave a result; ``None`` while it works."""
        run, code = job.run, job.process.poll()
        state, log = run.folder / 'state.json', run.folder / 'log.txt'
        last_report = max(job.begin, state.stat().st_mtime if state.is_file() else 0.0)
        stalled = code is None and self.stall is not None and time.time() - last_report >= 60 * self.stall
        if code is None and not stalled:
            return None
        end([job.process])  # with its group: a loader's worker whose last batch nobody took would wait for ever
        if stalled:
            self.say(f'{run.title}: no step for {self.stall} min, ended')
            self.stalls[run] += 1
        if code == os.EX_TEMPFAIL or (stalled and self.stalls[run] <= MAX_RESTARTS):  # another process does it
            return AGAIN
        if code == 0 and run.result is not None:
            return ''
        reason = f'ended with code {code}{no_room(run.folder)}\n  the end of {log}:'
        if stalled:
            reason = f'made no step for {self.stall} min, {MAX_RESTARTS + 1} times'
        with suppress(OSError):  # for `suite list`
            write_json(state, {**run.state, 'failed': reason.splitlines()[0]})
        return f'{reason}\n{tail(log)}'


def progress_line(run: Run) -> str:
    """Return step, loss and the rest of the time of a training; empty before its first step."""
    state = run.state
    done, steps = state.get('iteration'), state.get('iterations')
    if not done or not steps or state.get('phase') != 'training':
        return ''
    loss = f', loss {state["loss"]:.3g}' if 'loss' in state else ''
    return f'{run.title}: step {done} of {steps}{loss}, about {clock(state["seconds"] * (steps - done) / done)} left'


def clock(seconds: float) -> str:
    """Return a duration as text."""
    minutes, remainder = divmod(max(0, round(seconds)), 60)
    if minutes >= 60:
        return f'{minutes // 60} h {minutes % 60:02d} min'
    return f'{minutes} min {remainder:02d} s' if minutes else f'{remainder} s'


def job_words(definition: Path, run: Run) -> list[str]:
    """Return the command line of a run, without the program."""
    return ['job', str(definition), run.name, '--seed', str(run.seed)]


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use."""
    if (devices := os.environ.get('CUDA_VISIBLE_DEVICES')) is None:
        devices = ','.join(map(str, range(torch.cuda.device_count())))
    return [device for device in devices.split(',') if device.strip() not in ('', '-1')]


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines() if log.is_file() else []
    return '\n'.join(f'    {line}' for line in [line for line in lines if line.strip()][-TAIL:])


def no_room(folder: Path) -> str:
    """Return what to add to a failure if the disk of a folder is full: the log may have had no room to say so."""
    ancestor = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    if (free_bytes := shutil.disk_usage(ancestor).free) > MIN_FREE_BYTES:
        return ''
    return f': the disk of {folder} is full, {free_bytes // 2**20} MiB are left. Make room; the same command goes on'


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes that :class:`Pool` started, with their groups, by SIGTERM and then by SIGKILL."""
    for process in processes:
        process.terminate()  # it alone: it saves, while its workers live
    limit = time.monotonic() + GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, limit - time.monotonic()))
        # Killed processes disappear a little later. Zombies that nobody collects never do, hence the limit.
        limit_of_group = time.monotonic() + REAP_TIMEOUT
        with suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
            while time.monotonic() < limit_of_group:
                os.killpg(process.pid, signal.SIGKILL)  # also the rest of its group
                process.poll()
                time.sleep(0.01)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


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
