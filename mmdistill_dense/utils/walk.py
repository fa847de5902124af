"""Walk through the folders of pictures that a user names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


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
