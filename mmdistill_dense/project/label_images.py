"""Find the pictures, label images and classes of a segmentation data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmdistill_dense.datasets.unlabeled import EXTENSIONS
from mmdistill_dense.project.class_values import LIST, Pair, check_splits, made_up_names, name_classes, read_values
from mmdistill_dense.project.exif import stored_pixels
from mmdistill_dense.project.label_pairs import Endings, find_endings, labelled_names, of_no_classes
from mmdistill_dense.project.open_pictures import stored_size, usual_size
from mmdistill_dense.project.picture_folders import (
    LABELS,
    SPLITS,
    Folder,
    files_below,
    is_label,
    joined,
    picture_folders,
    two_parts,
)

LAYOUT = (
    'Expected for instance images/train/X.jpg with labels/train/X.png and the same for val, or train/images and '
    'train/masks, or images and masks without a split.'
)


@dataclass(frozen=True)
class Split:
    """Pictures with their label images: two folders below the root, and the names if not all files belong to it."""

    pictures: str
    labels: str
    count: int
    names: tuple[str, ...] = ()  # without the ending


@dataclass(frozen=True)
class SegData:
    """A data set of pictures and label images.

    Attributes:
        values: The label value of each class, where these are not 0, 1, 2, …
        size: Usual height and width of a picture.
        label_folders: The folders that directly hold label images, of any kind.
        notes: What was decided, for the user.
        stored: Whether pictures are read as they are stored, whatever their EXIF orientation.
    """

    root: Path
    splits: dict[str, Split]
    endings: Endings
    classes: tuple[str, ...]
    values: tuple[int, ...]
    size: tuple[int, int]
    label_folders: tuple[Path, ...] = ()
    notes: list[str] = field(default_factory=list)
    stored: bool = False

    @property
    def unnamed(self) -> bool:
        """Whether nobody named the classes."""
        return self.classes == made_up_names(self.values or range(len(self.classes)))


def find_seg_data(root: Path, given: Sequence[str] = (), exif: str | None = None) -> SegData:
    """Find out what a folder holds."""
    root = root.expanduser().resolve()
    folders, notes = picture_folders(root), list[str]()
    start = _start(root, folders)
    pictures, labels = _by_split(start, folders, False), _by_split(start, folders, True)
    endings, splits = _splits(root, pictures, labels, notes)
    pairs = {split: pairs_of(root, split, endings) for split in splits.values()}
    partner = {picture: label for part in pairs.values() for picture, label in part}
    stored = stored_pixels(list(partner), lambda picture: stored_size(partner[picture]), exif, notes)
    found = read_values(list(pairs.values()), stored)
    if endings.label.lower().endswith(('.jpg', '.jpeg')):
        lossy = f'label images X{endings.label}: JPEG changes values at edges. Write them as .png'
        if not given and not (root / LIST).is_file():
            raise ValueError(f'--data {root}: {lossy}; or name the classes by --classes, if no value was changed.')
        notes.append(f'WARNING: {lossy}')
    classes, values = name_classes(root, found, given, notes)
    by_value = dict(zip(values or range(len(classes)), classes, strict=True))
    check_splits(root, {name: found.of(pairs[split]) for name, split in splits.items()}, by_value, notes)
    size = usual_size([picture for picture, _ in pairs[splits['train']]], stored)
    label_folders = tuple(one.path for one in folders if is_label(one.path.relative_to(start).parts))
    return SegData(root, splits, endings, classes, values, size, label_folders, notes, stored)


def pairs_of(root: Path, split: Split, endings: Endings) -> list[Pair]:
    """Return the pictures of a split with their label images."""
    folder = root / split.pictures
    files = endings.by_name(sorted(str(path.relative_to(folder)) for path in files_below(folder, EXTENSIONS)))
    return [
        (folder / files[name], root / split.labels / f'{name}{endings.label}') for name in split.names or sorted(files)
    ]


def _splits(
    root: Path, pictures: dict[str | None, Folder], labels: dict[str | None, Folder], notes: list[str]
) -> tuple[Endings, dict[str, Split]]:
    """Return the endings of pictures and label images, and the splits that have both."""
    both = [split for split in pictures if split in labels]
    if not both:
        raise ValueError(
            f'--data {root}: pictures for {_said(pictures)}; label images for {_said(labels)}. '
            f'{_missing(root, pictures, labels)} {LAYOUT}'
        )
    if both == [None] or (both == ['train'] and 'val' not in {*pictures, *labels}):
        endings = find_endings([(pictures[both[0]], labels[both[0]])])
        return endings, _divided(root, pictures[both[0]], labels[both[0]], endings, notes)
    named = [name for name in SPLITS if name in both]
    if 'train' not in named or len(named) < 2:
        found = _said({name: pictures[name] for name in named})
        raise ValueError(
            f'--data {root}: found pictures with labels for {found}; training and validation are needed. Without any '
            f'folder for val, a fifth of the pictures for train validates. {LAYOUT}'
        )
    endings = find_endings([(pictures[name], labels[name]) for name in named])
    splits = {name: _split(root, pictures[name], labels[name], endings, notes) for name in named}
    if alone := {name: one for name, one in (*pictures.items(), *labels.items()) if name not in named}:
        notes.append(f'left out: {_said(alone)}')
    if 'val' not in splits:
        notes.append('no pictures for val: those for test validate')
        splits['val'] = splits['test']
    return endings, splits


def _missing(root: Path, pictures: dict[str | None, Folder], labels: dict[str | None, Folder]) -> str:
    """Say what to do without pictures, without label images, or with each for other splits."""
    if not pictures:
        return f'A picture ends in {", ".join(EXTENSIONS)}.'
    if labels:
        return 'Both are needed for train.'
    others = {
        '.json': ' (the json files there look like labels of boxes, for networks of mmdet::)',
        '.npy': ' (.npy files are not read: write label images, as X.png)',
    }
    there = ''.join(text for ending, text in others.items() if files_below(root, (ending,)))
    return (
        f'The name of a folder of label images begins with {", ".join(LABELS)}, or ends in labels or masks: rename it '
        f'so{there}.'
    )


def _start(root: Path, folders: Sequence[Folder]) -> Path:
    """Return the folder below which names tell label images: the root, or one that all lie in, as ``segdata``."""
    common = Path(os.path.commonpath([one.path for one in folders]))
    kinds = {start: {is_label(one.path.relative_to(start).parts) for one in folders} for start in (root, common)}
    return common if kinds[root] == {True} and len(kinds[common]) == 2 else root


def _by_split(start: Path, folders: Sequence[Folder], wanted: bool) -> dict[str | None, Folder]:
    """Return one folder for each split, of its label images if ``wanted``, else of its pictures.

    Folders of objects are left out where there are folders of classes, as in VOC.
    """
    chosen = [one for one in folders if is_label(one.path.relative_to(start).parts) == wanted]
    found = {}
    for split in dict.fromkeys(one.split for one in chosen):
        own = [one for one in chosen if one.split == split]
        classes = [one for one in own if not (wanted and of_no_classes(one.path.name))]
        found[split] = joined(classes or own)
    return found


def _said(found: dict[str | None, Folder]) -> str:
    return (
        ', '.join(f'{split or "no split"} ({len(one.files)} in {one.path})' for split, one in found.items()) or 'none'
    )


def _split(root: Path, pictures: Folder, labels: Folder, endings: Endings, notes: list[str]) -> Split:
    least = 2 if pictures.split == 'train' else 1
    names, all_of_them = labelled_names(pictures, labels, endings, least, notes)
    return Split(*_places(root, pictures, labels), len(names), () if all_of_them else tuple(names))


def _places(root: Path, pictures: Folder, labels: Folder) -> tuple[str, str]:
    return str(pictures.path.relative_to(root)), str(labels.path.relative_to(root))


def _divided(root: Path, pictures: Folder, labels: Folder, endings: Endings, notes: list[str]) -> dict[str, Split]:
    """Divide the pictures of one folder; the files of names are written beside the configs."""
    labelled, _ = labelled_names(pictures, labels, endings, 3, notes)
    train, val = two_parts(labelled, pictures.path)
    notes.append(
        f'no folder for val: {len(train)} pictures of {pictures.path} train, {len(val)} validate (train.txt, val.txt)'
    )
    return {
        name: Split(*_places(root, pictures, labels), len(names), tuple(names))
        for name, names in (('train', train), ('val', val))
    }
