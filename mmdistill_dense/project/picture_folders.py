"""Find folders of pictures: what is in them, and for which split they are."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdistill_dense.datasets.unlabeled import EXTENSIONS
from mmdistill_dense.utils.messages import some
from mmdistill_dense.utils.walk import walk

SPLITS: Mapping[str, Sequence[str]] = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation', 'dev'),
    'test': ('test', 'testing'),
}
LABELS = ('label', 'mask', 'annot', 'gt', 'seg')  # beginnings of a part of the path of label images, or endings
VAL_SHARE = 0.2  # of the pictures, where the data have no split of their own
_WORD = re.compile(r'[a-z]+')


@dataclass(frozen=True)
class Folder:
    """A folder of pictures.

    Attributes:
        path: The folder; the pictures lie in it or below it.
        files: Paths of the pictures, relative to it, sorted.
        split: ``'train'``, ``'val'``, ``'test'``, or ``None`` if its name tells none.
    """

    path: Path
    files: tuple[str, ...]
    split: str | None


def picture_folders(root: Path) -> list[Folder]:
    """Return the folders below ``root`` that directly hold pictures, hidden ones left out."""
    if not root.is_dir():
        what = (
            'a file. Give the folder that holds it.' if root.is_file() else f'no such folder (looked in {Path.cwd()}).'
        )
        raise FileNotFoundError(f'--data {root}: {what}')
    found = []
    for path, names in walk(root):
        if files := [name for name in names if name.lower().endswith(EXTENSIONS)]:
            found.append(Folder(path, tuple(files), split_of(path.relative_to(root).parts)))
    if not found:
        raise FileNotFoundError(
            f'--data {root}: no picture in it or below it (files that end in {", ".join(EXTENSIONS)}). It holds '
            f'{some(sorted(entry.name for entry in root.iterdir())) or "nothing"}.'
        )
    return found


def files_below(root: Path, endings: tuple[str, ...]) -> list[Path]:
    """Return the files with one of these endings, in any case; links to folders are followed, hidden files left out."""
    return [folder / name for folder, names in walk(root) for name in names if name.lower().endswith(endings)]


def is_label(parts: Sequence[str]) -> bool:
    """Tell whether the parts of a path name a folder of label images."""
    lowered = [part.lower() for part in parts]
    return any(part.startswith(LABELS) or part.endswith(('annot', 'labels', 'masks')) for part in lowered)


def split_of(parts: Iterable[str]) -> str | None:
    """Return the split that the parts of a path name, the innermost first: ``('images', 'train2017')`` is train.

    SegNet's ``trainannot`` is train too: the name of a split may stand at the beginning of a word.
    """
    for part in reversed(list(parts)):
        for word in _WORD.findall(part.lower()):
            for split, names in SPLITS.items():
                if word in names or word.startswith(f'{split}annot'):
                    return split
    return None


def joined(folders: Sequence[Folder]) -> Folder:
    """Return folders of one role and split as one: their common parent, with all of their pictures."""
    if len(folders) == 1:
        return folders[0]
    parent = Path(os.path.commonpath([one.path for one in folders]))
    files = sorted(str((one.path / name).relative_to(parent)) for one in folders for name in one.files)
    return Folder(parent, tuple(files), folders[0].split)


def two_parts(names: Sequence[str], place: Path) -> tuple[list[str], list[str]]:
    """Divide names of pictures into training and validation, always in the same way."""
    if len(names) < 2:
        raise ValueError(
            f'--data: {place} holds {len(names)} picture with its label; training and validation need one each. Add '
            'pictures.'
        )
    shuffled = sorted(names)
    random.Random(0).shuffle(shuffled)
    count = max(1, round(VAL_SHARE * len(shuffled)))
    return sorted(shuffled[count:]), sorted(shuffled[:count])
