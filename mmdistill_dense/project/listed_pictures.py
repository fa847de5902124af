"""Find the pictures that label files list, and those that none of them lists."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdistill_dense.project.picture_folders import Folder, is_label, split_of
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.messages import some

_LOOKED = 20  # pictures that are looked for in each folder


def folder_of(path: Path, content: Mapping[str, Any], root: Path, below: Sequence[Folder], split: str | None) -> Path:
    """Return the folder to which the file names of a label file are relative.

    Of several that hold as many of them, it is one for the same split, then the nearest one: splits may reuse names.
    """
    inside = [one.path.relative_to(root) for one in below]
    above = [root / parent for one in inside for parent in (one, *one.parents)]  # up to the root
    folders = list(dict.fromkeys([path.parent, root, *above]))
    names = [one['file_name'] for one in content['images']]
    if not names:
        raise ValueError(f'--data: {path} lists no picture (images is empty).')
    looked = evenly(names, _LOOKED)

    def fits(folder: Path) -> tuple[int, bool, int]:
        there = sum(os.path.isfile(folder / name) for name in looked)
        return there, split_of(folder.relative_to(root).parts) == split, len(os.path.commonpath([folder, path]))

    best = max(folders, key=fits)
    missing = [name for name in names if not os.path.isfile(best / name)]
    if missing:
        raise FileNotFoundError(
            f'--data: {len(missing)} of the {len(names)} pictures of {path} are not there: {some(missing, 3)}; looked '
            f'in {some(folders, 5)}. The file_name of each picture must be its path below one of these folders.'
        )
    return best


def listed_files(content: Mapping[str, Any], folder: Path) -> set[str]:
    """Return the files of the pictures that a label file lists; links are followed."""
    return {os.path.realpath(folder / one['file_name']) for one in content['images']}


def unlisted(root: Path, folders: Sequence[Folder], files: Mapping[str | None, set[str]]) -> Iterator[str]:
    """Yield a note about the pictures that no label file lists. Folders of label images are no such pictures."""
    listed = set[str]().union(*files.values())
    every = [one.path / name for one in folders if not is_label(one.path.relative_to(root).parts) for name in one.files]
    free = [path for path in every if os.path.realpath(path) not in listed]
    if free:
        place = shlex.quote(os.path.commonpath([path.parent for path in free]))
        yield (
            f'{len(free)} of {len(every)} pictures have no labels in any file ({some(free, 1)}). They are in no split; '
            f'--unlabelled {place} teaches on them'
        )
