"""A folder that belongs to one process at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def owned(folder: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder for this process.

    The lock is the process's own (POSIX): workers that it forks do not hold it on after its death.

    Args:
        folder: Is made where it is missing.
        what: Names it in the error.
        patience: Seconds to wait for another process to end.

    Raises:
        RuntimeError: When another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / '.lock', 'a+', encoding='utf-8') as file:
        _acquire(file, what, folder, patience)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN)


def _acquire(file: Any, what: str, folder: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if time.monotonic() >= end:
                file.seek(0)
                holder = file.read().strip() or 'unknown'
                raise RuntimeError(
                    f'{what} runs already in {folder}, as process {holder}: wait for it, end it, or set another `out`.'
                ) from error
        time.sleep(0.2)
