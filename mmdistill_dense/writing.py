"""Writes files that are whole whenever somebody looks: a full disk or a kill leaves the old one."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch


def write_whole(path: Path, content: bytes, alone: bool = False) -> None:
    """Write a file, folders and all; a reader sees the old content or the new one.

    Args:
        path: The file.
        content: What it shall hold.
        alone: No other process writes this file: what a kill leaves of it has a name that the next write takes again.

    Raises:
        OSError: Names the file, for instance when the disk is full; nothing of it is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name}.tmp' if alone else f'.{path.name}.{os.getpid()}')
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        raise type(error)(error.errno, f'{error.strerror}, nothing was written', str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def save_whole(content: Any, path: Path) -> None:
    """Write what ``torch.load`` reads, as :func:`write_whole`; ``torch.save`` itself leaves half a file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue(), alone=True)
