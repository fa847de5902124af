"""Find the pictures that two data sets share, by their files."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any


def picture_paths(dataset: Any, key: str = 'img_path') -> list[str]:
    """Return the path of each picture of a data set, also of one that wraps others; empty if it does not tell.

    Args:
        dataset: The data set.
        key: Of the entries; ``seg_map_path`` gives the label images. Defaults to the pictures.
    """
    while not hasattr(dataset, 'get_data_info') and hasattr(dataset, 'dataset'):  # mmdet's for mosaics
        dataset = dataset.dataset
    if not hasattr(dataset, 'get_data_info') or not hasattr(dataset, '__len__'):
        return []
    entries = [dataset.get_data_info(number) for number in range(len(dataset))]
    return list(dict.fromkeys(str(entry[key]) for entry in entries if entry.get(key)))


def same_pictures(paths: Sequence[str], others: Iterable[str]) -> dict[str, str]:
    """Return the pictures that are among others too: ``{path: the other path}``.

    Two are the same if they are one file (links are followed) or have the same content. Only files of equal length are
    read. Names alone say nothing. Paths that are no files of this machine are not compared.

    Args:
        paths: Pictures.
        others: The pictures to look among.
    """
    there = [path for path in others if os.path.isfile(path)]
    files = {os.path.realpath(path): path for path in there}
    lengths: dict[int, list[str]] = defaultdict(list)
    for path in there:
        lengths[os.path.getsize(path)].append(path)
    contents: dict[int, dict[str, str]] = {}
    found = {}
    for path in filter(os.path.isfile, paths):
        length = os.path.getsize(path)
        if same := files.get(os.path.realpath(path)):
            found[path] = same
        elif length in lengths:
            if length not in contents:
                contents[length] = {_content(other): other for other in lengths[length]}
            if same := contents[length].get(_content(path)):
                found[path] = same
    return found


def not_on_disk(paths: Iterable[str]) -> list[str]:
    """Return the paths that are no files of this machine: generated pictures, remote stores."""
    return [path for path in paths if not os.path.isfile(path)]


def _content(path: str) -> str:
    status = os.stat(path)
    return _hash(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _hash(path: str, size: int, changed: int) -> str:
    """Return the hash of a file's bytes; a suite asks for the same files once for each row."""
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()
