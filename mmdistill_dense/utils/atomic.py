"""Write files that are complete at any time: after a full disk or a kill, the old content is still there."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch


def write_whole(path: Path, content: bytes, alone: bool = False, lasting: bool = True) -> None:
    """Write a file and make its folders; a reader sees the old content or the new one.

    ``lasting``: so does one after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name}.tmp' if alone else f'.{path.name}.{os.getpid()}')
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


def check_writable(path: Path, key: str) -> None:
    """Refuse a file that :func:`write_whole` cannot write, before long work. Makes no folder."""
    if path.is_dir():
        raise ValueError(f'{key}={str(path)!r} is a folder: name a file in it')
    place = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(
            f'{key}={str(path)!r} cannot be written: {error.strerror} ({place}). Give a file in a folder that you may '
            'write to.'
        ) from error


def save_whole(content: Any, path: Path) -> None:
    """Save for ``torch.load`` as :func:`write_whole` does; ``torch.save`` itself may leave half a file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue(), alone=True)


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


def list_text(names: Iterable[str], option: str) -> str:
    """Return the text of a list of file names, one a line."""
    listed = list(names)
    for name in listed:
        if name.encode('utf-8', 'replace').decode().strip().splitlines() != [name]:
            raise ValueError(
                f'{option}: the file name {name!r} begins or ends with a space, or has a line break or bytes that are '
                'no UTF-8 in it, so no list of files can hold it. Rename the file.'
            )
    return ''.join(f'{name}\n' for name in listed)


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
    try:
        return read_json(path) or {}
    except (ValueError, OSError):
        return {}
