"""What a long step shows: nothing of the libraries' prints, and signs that it is at work."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextlib.contextmanager
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop prints, warnings and log messages below the level of errors while the context is open."""
    with errors_only(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


@contextlib.contextmanager
def quiet_profiler() -> Iterator[None]:
    """Drop what is written to the process's standard error, where torch's profiler reports its start and stop."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


EVERY = 8.0  # seconds


@contextmanager
def alive(what: str) -> Iterator[None]:
    """Write a line to standard error every few seconds while the context is open."""
    ended, began, screen = threading.Event(), time.monotonic(), sys.stderr  # others may redirect it later

    def beat() -> None:
        while not ended.wait(EVERY):
            print(f'{what} … {time.monotonic() - began:.0f} s', file=screen, flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
