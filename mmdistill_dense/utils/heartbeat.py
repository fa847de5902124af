"""Show that a long step is still at work."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 8.0  # seconds


@contextmanager
def alive(what: str) -> Iterator[None]:
    """Write a line to standard error every few seconds while the context is open.

    Args:
        what: What is done, for the line: ``exporting``.
    """
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
