"""Files that are complete at any time, and folders that belong to one process at a time."""

import errno
import fcntl
import io
import json
import math
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes, exclusive: bool = False, lasting: bool = True) -> None:
    """Write a file and make its folders; a reader sees the old or the new (``lasting``: after a power cut too)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name}.tmp' if exclusive else f'.{path.name}.{threading.get_native_id()}')
    try:
        with open(unfinished, 'wb') as file:
            file.write(content)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise type(error)(error.errno, f'{error.strerror}, nothing was written', str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def expand_user(path: Path | str) -> Path:
    """Return a path with the home in place of ``~``; ``~name`` stays where there is no such user."""
    return Path(os.path.expanduser(path))


def check_writable(path: Path, key: str) -> None:
    """Refuse a file that :func:`write_whole` cannot write, before long work. Makes no folder."""
    if path.is_dir():
        raise ValueError(f'{key}={str(path)!r} is a folder: name a file in it')
    parent = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        problem = f'{key}={str(path)!r} cannot be written: {error.strerror} ({parent})'
        raise ValueError(f'{problem}. Give a file where you may write.') from error


def save_whole(content: Any, path: Path) -> None:
    """Save for ``torch.load`` as :func:`write_whole` does; ``torch.save`` itself may leave half a file."""
    import torch  # slow, and of no use to the other functions

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue(), exclusive=True)


def without_nan(value: Any) -> Any:
    """Return nested dicts and lists with ``None`` for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Any, lasting: bool = True) -> None:
    """Write JSON as :func:`write_whole` does."""
    write_whole(path, (json.dumps(content, indent=1) + '\n').encode(), lasting=lasting)


def write_text(path: Path, text: str) -> None:
    """Write text as :func:`write_whole` does."""
    write_whole(path, text.encode('utf-8'))


def printable(name: str) -> str:
    """Return a file's name with a question mark for each byte that is no UTF-8; most names stay as they are."""
    return name.encode('utf-8', 'replace').decode()


def list_text(names: Iterable[str], option: str) -> str:
    """Return the text of a list of file names, one a line."""
    entries = list(names)
    for name in entries:
        if printable(name).strip().splitlines() != [name]:
            reason = 'begins or ends with a space, has a line break or is no UTF-8, so no list of files can hold it'
            raise ValueError(f'{option}: the file name {name!r} {reason}: rename the file.')
    return ''.join(f'{name}\n' for name in entries)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or ``None`` if there is no file."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f'{path}: not valid JSON ({error}); remove it, and it will be made again') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: must hold a JSON object; remove it, and it will be made again')
    return content


def read_progress(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file that only reports; empty if there is none, or none that can be read."""
    with suppress(ValueError, OSError):
        return read_json(path) or {}
    return {}


# Folders


class FolderInUse(RuntimeError):
    """Another process works in a folder."""


@contextmanager
def owned(folder: Path, name: str, patience: float = 0.0) -> Iterator[None]:
    """Lock a folder for this process while the context is open.

    It is a POSIX lock, which ends with the process: workers that it forks, and which may outlive it, do not inherit it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = open(folder / '.lock', 'a+', encoding='utf-8')  # noqa: SIM115
    except PermissionError as error:
        user = next(path for path in (folder / '.lock', folder) if path.exists()).stat().st_uid
        problem = f'{name} may not write {folder / ".lock"}: it is of the user with the number {user}. Remove it'
        raise PermissionError(error.errno, f'{problem}, or take another folder') from error
    with lock as file:
        _acquire(file, name, folder, patience)
        file.truncate(0)
        file.write(f'{os.getpid()} on {socket.gethostname()}')
        file.flush()
        try:
            yield
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN)


def _acquire(file: Any, name: str, folder: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                problem = f'{name} needs a folder on a file system with locks ({error.strerror})'
                raise OSError(error.errno, problem, str(folder)) from error
            if time.monotonic() >= end:
                file.seek(0)
                holder = file.read().strip() or 'unknown'
                raise FolderInUse(f'{name} already runs in {folder}, as process {holder}: wait, or end it.') from error
        time.sleep(0.2)


def in_use(folder: Path) -> bool:
    """Tell whether another process has locked a folder by :func:`owned`.

    The lock of another user is asked by reading it. What cannot be asked counts as free: who takes it is told.
    """
    try:
        with open(folder / '.lock', 'rb') as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def walk(root: str | Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder below ``root`` with the names of its files, sorted; hidden files and folders are left out.

    Links to folders are followed, but for those that lead to a folder above them: these would never end.
    """
    for folder, below, names in os.walk(root, followlinks=True):
        prefix = _with_end(folder)
        below[:] = sorted(
            name
            for name in below
            if not name.startswith('.') and not prefix.startswith(_with_end(os.path.join(folder, name)))
        )
        yield Path(folder), sorted(name for name in names if not name.startswith('.'))


def _with_end(folder: str) -> str:
    return os.path.join(os.path.realpath(folder), '')
