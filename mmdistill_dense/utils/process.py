"""How this process waits, which device it uses, and what it shows during a long step."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

SPINS = '1000'  # with 5000 a step on busy cores takes three times as long; on free ones it makes no difference


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let a thread that waits for the others sleep soon, unless the environment says how to wait.

    Else it takes the core from the one that it waits for. Call this before torch is loaded or for a new process.
    """
    if 'OMP_WAIT_POLICY' not in environment:
        environment.setdefault('GOMP_SPINCOUNT', SPINS)


def cores() -> int:
    """Return the number of cores that this process may use, which a job of Slurm or a container may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def threads_asked_for() -> int:
    """Return the number of threads that the user's shell asks for (``OMP_NUM_THREADS``), 0 without any."""
    number = os.environ.get('OMP_NUM_THREADS', '').partition(',')[0].strip()
    return int(number) if number.isdigit() else 0


def device_of(device: str | None) -> str:
    """Return the device of ``--device``, by default a GPU where there is one; refuse one that this machine lacks."""
    import torch  # so that a mistake in a command is told at once

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [*(['cuda'] if gpus else []), *(f'cuda:{number}' for number in range(gpus) if gpus > 1), 'cpu']
    if device is None:
        return devices[0]
    try:
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError) as error:  # torch without CUDA, no GPU of this number, no such name
        reason = str(error).partition('\n')[0].rstrip('.')
        raise ValueError(f'--device {device}: this machine has {", ".join(devices)}. torch says: {reason}.') from error
    return device


@contextmanager
def errors_only() -> Iterator[None]:
    """Drop log messages below the level of errors while the context is open."""
    from mmengine.logging import MMLogger  # imports torch, which a mistake in a command need not wait for

    before, logger = logging.root.manager.disable, MMLogger.get_current_instance()
    level = logger.level
    logging.disable(logging.WARNING)
    logger.setLevel(logging.ERROR)  # setLevel clears the cache of enabled levels in mmengine's loggers
    try:
        yield
    finally:
        logging.disable(before)
        logger.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop prints, warnings and log messages below the level of errors while the context is open."""
    with errors_only(), redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def terminal() -> Console:
    """Return a console that writes to standard output, with wide lines where that is no terminal."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=140)


@contextmanager
def quiet_profiler() -> Iterator[None]:
    """Drop what is written to the process's standard error, where torch's profiler reports its start and stop."""
    stderr_copy = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr_copy, 2)
        os.close(stderr_copy)
        os.close(nowhere)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into :class:`KeyboardInterrupt`, as for Ctrl-C; what nohup ignores stays ignored."""
    main = threading.current_thread() is threading.main_thread()  # others may set no handlers
    signals = (signal.SIGTERM, signal.SIGHUP) if main else ()
    numbers = [number for number in signals if signal.getsignal(number) not in (None, signal.SIG_IGN)]
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


EVERY = 8.0  # seconds


@contextmanager
def heartbeat(task: str) -> Iterator[None]:
    """Write a line to standard error every few seconds while the context is open."""
    stop, start, screen = threading.Event(), time.monotonic(), sys.stderr  # others may redirect it later

    def beat() -> None:
        while not stop.wait(EVERY):
            print(f'{task} … {time.monotonic() - start:.0f} s', file=screen, flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
