"""Find pictures without labels, and pictures that two parts of the data share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.project.box_labels import BoxData
from mmdistill_dense.apps.project.label_images import SegData
from mmdistill_dense.apps.project.picture_folders import files_below, is_label
from mmdistill_dense.unlabelled.pictures import EXTENSIONS, same_pictures
from mmdistill_dense.utils.files import walk
from mmdistill_dense.utils.literals import Template
from mmdistill_dense.utils.validate import some

UNLABELLED_LIST = 'unlabelled.txt'


@dataclass(frozen=True)
class FreePictures:
    folder: Path  # they lie in it or below it
    count: int
    names: tuple[str, ...]  # their paths below the folder, where it holds other pictures too
    left_out: str  # those others, for the user

    @property
    def option(self) -> dict[str, Any]:
        """The option ``unlabelled`` of a config in the folder of the project."""
        listed = {'ann_file': Template(f'{{{{ fileDirname }}}}/{UNLABELLED_LIST}')} if self.names else {}
        return {'data_root': str(self.folder), **listed, 'ratio': 1}


def free_pictures(given: str, data: SegData | BoxData, batch: int) -> FreePictures:
    """Return the pictures of a folder that are not among the data."""
    folder = Path(given).expanduser().resolve()
    pictures = sorted(files_below(folder, EXTENSIONS))
    count = sum(name.lower().endswith(EXTENSIONS) for _, names in walk(folder) for name in names)
    # in folders of label images; folders above all of the pictures do not count
    starts = folder, Path(os.path.commonpath([path.parent for path in pictures] or [folder]))
    below, inside = ({path for path in pictures if is_label(path.parent.relative_to(one).parts)} for one in starts)
    drawn = inside if inside and len(below) == len(pictures) else below
    if isinstance(data, SegData):
        drawn |= {path for path in pictures if os.path.realpath(path) in data.label_images}
    taken, seen = {'label images': drawn}, set[str]()
    for name in [name for name in ('val', 'test', 'train') if name in data.splits]:
        own = [path for path in pictures_of(data, name) if path not in seen]
        seen.update(own)
        bare = {os.path.splitext(os.path.realpath(path))[0] for path in own}  # X.png beside X.jpg shows the same
        same = map(Path, same_pictures([str(path) for path in pictures], own))
        taken[f'of {name}'] = {*same, *(one for one in pictures if os.path.splitext(os.path.realpath(one))[0] in bare)}
    free, counts = pictures, {'of projects and of `predict`': count - len(pictures)}
    for what, others in taken.items():
        left = [path for path in free if path not in others]
        free, counts[what] = left, len(free) - len(left)
    left_out = ', '.join(f'{count} {what}' for what, count in counts.items() if count)
    if len(free) < batch:
        of_which = f', of which {left_out} cannot be taught on: {len(free)} are left' if left_out else ''
        there = f'{count} pictures in it or below it (files that end in {", ".join(EXTENSIONS)}){of_which}'
        raise ValueError(f'--unlabelled {given}: {there}; a step takes {batch}. Add pictures, or leave it out.')
    names = tuple(path.relative_to(folder).as_posix() for path in free) if left_out else ()
    return FreePictures(folder, len(free), names, left_out)


def shared(data: SegData | BoxData) -> Iterator[str]:
    """Yield a warning for pictures of another split that also train, as the same file or as a copy."""
    train = pictures_of(data, 'train')
    for name in [name for name in data.splits if name != 'train']:
        own = pictures_of(data, name)
        if same := same_pictures(own, train):
            first = [path if path == other else f'{path} is {other}' for path, other in same.items()]
            told = f'{len(same)} of the {len(own)} pictures for {name} also train ({some(first, 3)})'
            yield f'WARNING: {told}: the scores will be too high'


def pictures_of(data: SegData | BoxData, name: str) -> list[str]:
    if isinstance(data, SegData):
        return [str(picture) for picture, _ in data.pairs[name]]
    split = data.splits[name]
    return [str(data.root / split.pictures / file) for file in split.files]
