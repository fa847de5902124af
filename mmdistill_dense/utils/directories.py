"""Folders that belong to one process at a time, and walks through folders of pictures."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class FolderInUse(RuntimeError):
    """Another process works in a folder."""


@contextmanager
def owned(folder: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Lock a folder for this process while the context is open.

    It is a POSIX lock, which workers that the process forks do not inherit: it ends with the process. Those of the
    library filelock are inherited, so the worker of a killed process would hold the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / '.lock', 'a+', encoding='utf-8') as file:
        _acquire(file, what, folder, patience)
        file.truncate(0)
        file.write(f'{os.getpid()} on {socket.gethostname()}')
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
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise OSError(
                    error.errno,
                    f'{what} needs a folder on a file system with locks, which keep a second process out '
                    f'({error.strerror})',
                    str(folder),
                ) from error
            if time.monotonic() >= end:
                file.seek(0)
                holder = file.read().strip() or 'unknown'
                raise FolderInUse(
                    f'{what} already runs in {folder}, as process {holder}: wait for it, or end it.'
                ) from error
        time.sleep(0.2)


def in_use(folder: Path) -> bool:
    """Tell whether another process has locked a folder by :func:`owned`; also true where locks cannot be asked for."""
    try:
        with open(folder / '.lock', 'r+', encoding='utf-8') as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def walk(root: str | Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder below ``root`` with the names of its files, sorted; hidden files and folders are left out.

    Links to folders are followed, but for those that lead to a folder above them: these would never end.
    """
    for folder, below, names in os.walk(root, followlinks=True):
        here = _with_end(folder)
        below[:] = sorted(
            name
            for name in below
            if not name.startswith('.') and not here.startswith(_with_end(os.path.join(folder, name)))
        )
        yield Path(folder), sorted(name for name in names if not name.startswith('.'))


def _with_end(folder: str) -> str:
    return os.path.join(os.path.realpath(folder), '')
