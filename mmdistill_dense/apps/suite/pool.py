"""Do several runs at a time, each in its own process."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.engine.work_folder import latest_checkpoint
from mmdistill_dense.utils.files import in_use, write_json
from mmdistill_dense.utils.process import wait_briefly

POLL_INTERVAL = 2.0  # seconds between two checks of the locks of other pools
MAX_RESTARTS = 2  # how often a run that makes no step is started again
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
REAP_TIMEOUT = 2.0  # seconds to wait for the workers of a killed job
TAIL = 15  # lines shown of a failed run's log
ELSEWHERE, STALLED = 'another process does it', -1000  # how a job may end
MIN_FREE_BYTES = 16 * 2**20  # bytes left on a disk that counts as full: less than a checkpoint


class Pool:
    """Starts each run when the results that it needs are there and one of ``jobs`` threads is free.

    Several pools, also of several machines, may work on one suite: each run's folder has a lock, and a pool leaves the
    runs alone that another process does.
    """

    def __init__(
        self,
        command: Callable[[Run], list[str]],  # called once, before a run begins
        jobs: int,
        threads: int,
        say: Callable[[str], None],
        on_run_end: Callable[[], None] = lambda: None,  # called when a run has ended
        stall: float | None = None,  # minutes without a report
    ) -> None:
        self.command, self.jobs, self.threads, self.say, self.on_run_end = command, jobs, threads, say, on_run_end
        self.stall = stall
        devices = visible_devices()
        self.slots: SimpleQueue[str | None] = SimpleQueue()  # a device for each thread
        for slot in range(jobs):
            self.slots.put(devices[slot % len(devices)] if len(devices) > 1 else None)
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.ended = False  # by an interruption: no thread starts another process

    def execute(self, todo: Sequence[Run]) -> dict[str, str]:
        """Do runs, which include all that they depend on; return why some failed, which stops only their dependents."""
        waiting, failed, running = list(todo), dict[str, str](), dict[Future[str | None], Run]()
        titles, busy_folders, last_poll = {run.folder: run.title for run in todo}, set[Path](), -POLL_INTERVAL
        last_news = time.monotonic()

        with ThreadPoolExecutor(self.jobs) as threads:
            try:
                while waiting or running:
                    for run in list(waiting):
                        if failed_titles := [titles[folder] for folder in run.after if titles.get(folder) in failed]:
                            waiting.remove(run)
                            self._fail(failed, run, f'needs {", ".join(failed_titles)}')
                    if time.monotonic() - last_poll >= POLL_INTERVAL:
                        busy_folders = {run.folder for run in waiting if in_use(run.folder)}
                        last_poll = time.monotonic()
                    for run in [run for run in waiting if run.folder not in busy_folders]:
                        if run.result is not None:  # another process did it
                            waiting.remove(run)
                            self._report(run)
                        elif len(running) < self.jobs and not run.missing:
                            waiting.remove(run)
                            running[threads.submit(self._run_job, run, self.slots.get())] = run  # one is free
                    if waiting and not running and not busy_folders:
                        for run in waiting:
                            needs = ', '.join(map(str, run.missing))
                            self._fail(failed, run, f'needs results that none of these runs gives: {needs}')
                        break
                    for future in wait(running, POLL_INTERVAL if running else 0, FIRST_COMPLETED).done:
                        run, reason = running.pop(future), future.result()
                        if reason == ELSEWHERE:
                            waiting.insert(0, run)
                            last_poll = -POLL_INTERVAL
                        elif reason is not None:
                            self._fail(failed, run, reason)
                        else:
                            self._report(run)
                            self.on_run_end()
                    if time.monotonic() - last_news >= (60 if sys.stdout.isatty() else 600):  # seconds
                        last_news = time.monotonic()
                        for line in filter(None, map(progress_line, running.values())):
                            self.say(line)
                    if not running:
                        time.sleep(POLL_INTERVAL / 10)
            finally:
                self.ended = True
                end(list(self.processes))
        return failed

    def _fail(self, failed: dict[str, str], run: Run, reason: str) -> None:
        failed[run.title] = reason
        self.say(f'{run.title}: FAILED ({reason.splitlines()[0]})')

    def _report(self, run: Run) -> None:
        result = run.result or {}
        split = 'val' if result.get('test_is_val') else 'test'
        score = f'{result["score"]:.2f} on {split}' if 'score' in result else 'done'
        self.say(f'{run.title}: {score} after {clock(60 * result["minutes"])}')

    def _run_job(self, run: Run, device: str | None) -> str | None:
        """Do a run in a process; return why it failed, :data:`ELSEWHERE` if another process does it, or ``None``."""
        try:
            if full := no_room(run.folder):
                return f'was not started{full}'
            checkpoint, log = latest_checkpoint(run.folder), run.folder / 'log.txt'
            try:
                words = self.command(run)
            except (OSError, LookupError, ValueError) as error:
                return f'was not started: {error}'
            self.say(f'{run.title}: {f"goes on from {checkpoint.name}" if checkpoint else "starts"}')
            for _ in range(MAX_RESTARTS + 1):
                code = self._process(run, words, device)
                if self.ended:
                    return None  # interrupted, which is no failure
                if code == os.EX_TEMPFAIL:
                    return ELSEWHERE
                if code == 0 and run.result is not None:
                    return None
                reason = f'ended with code {code}{no_room(run.folder)}\n  the end of {log}:'
                if code != STALLED:
                    break
                self.say(f'{run.title}: no step for {self.stall} min, ended')
                reason = f'made no step for {self.stall} min, {MAX_RESTARTS + 1} times'
            with suppress(OSError):  # for `suite list`
                write_json(run.folder / 'state.json', {**run.state, 'failed': reason.splitlines()[0]})
            return f'{reason}\n{tail(log)}'
        finally:
            self.slots.put(device)

    def _process(self, run: Run, words: list[str], device: str | None) -> int | None:
        """Run a process to its end and return its code, or :data:`STALLED` if it reported nothing for too long."""
        if self.ended:
            return None
        run.folder.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.threads), MKL_NUM_THREADS=str(self.threads))
        wait_briefly(environment)
        if device is not None:
            environment['CUDA_VISIBLE_DEVICES'] = device
        began, state = time.time(), run.folder / 'state.json'
        with open(run.folder / 'log.txt', 'ab') as file:
            streams: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT)
            # in a group of its own: Ctrl-C reaches only this process, which then ends the group with its loader workers
            process = subprocess.Popen(words, env=environment, start_new_session=True, **streams)
        self.processes.add(process)
        if self.ended:  # the interruption came while this process started, and ended those that it knew
            end([process])
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(POLL_INTERVAL)
                last_report = max(began, state.stat().st_mtime if state.is_file() else 0.0)
                if self.stall is not None and time.time() - last_report >= 60 * self.stall:
                    return STALLED
        finally:
            if not self.ended:
                end([process])  # with its group: a loader's worker whose last batch nobody took would wait for ever
            self.processes.discard(process)


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
    if (devices := os.environ.get('CUDA_VISIBLE_DEVICES')) is not None:
        return [device for device in devices.split(',') if device.strip() not in ('', '-1')]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


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
        with suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
            os.killpg(process.pid, signal.SIGKILL)  # also the rest of its group
        process.wait()
        # Killed processes disappear a little later. Zombies that nobody collects never do, hence the limit.
        limit_of_group = time.monotonic() + REAP_TIMEOUT
        with suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < limit_of_group:
                os.killpg(process.pid, 0)
                time.sleep(0.01)
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
