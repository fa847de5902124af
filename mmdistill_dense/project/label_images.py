"""Find the pictures, label images and classes of a segmentation data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mmdistill_dense.project.picture_folders import (
    SPLITS,
    Folder,
    evenly,
    joined,
    picture_folders,
    two_parts,
    usual_size,
)
from mmdistill_dense.utils.messages import some

IGNORED = 255
COUNTED = 200  # label images whose values are read
LIST = 'classes.txt'
NO_CLASS = '-'
_GAP = 10  # missing values that a rare class may explain
_LABELS = ('label', 'mask', 'annot', 'gt', 'seg')  # beginnings of a part of the path, or endings
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
        notes: What was decided, for the user.
    """

    root: Path
    splits: dict[str, Split]
    endings: tuple[str, str]
    classes: tuple[str, ...]
    values: tuple[int, ...]
    size: tuple[int, int]
    notes: list[str] = field(default_factory=list)


def find_seg_data(root: Path, given: Sequence[str] = ()) -> SegData:
    """Find out what a folder holds.

    Args:
        root: The folder of ``--data``.
        given: The class names of ``--classes``, in the order of the label values.

    Raises:
        FileNotFoundError: Without pictures, label images or the label of a picture.
        ValueError: For a layout that is not clear, label images in colours, or another number of names than values.
    """
    root = root.expanduser().resolve()
    folders, notes = picture_folders(root), list[str]()
    pictures, labels = _by_split(root, folders, False), _by_split(root, folders, True)
    endings, splits = _splits(root, pictures, labels, notes)
    train = splits['train']
    images = [
        root / train.labels / f'{name}{endings[1]}' for name in train.names or _stems(labels['train'], endings[1])
    ]
    classes, values = _classes(root, images, given, notes)
    places = [root / train.pictures / f'{name}{endings[0]}' for name in train.names]
    places = places or [root / train.pictures / name for name in pictures['train'].files]
    return SegData(root, splits, endings, classes, values, usual_size(places), notes)


def _splits(
    root: Path, pictures: dict[str | None, Folder], labels: dict[str | None, Folder], notes: list[str]
) -> tuple[tuple[str, str], dict[str, Split]]:
    """Return the endings of pictures and label images, and the splits that have both."""
    both = [split for split in pictures if split in labels]
    if not both:
        raise ValueError(
            f'--data {root}: pictures for {_said(pictures)}, label images for {_said(labels)} (a folder of label '
            f'images has label, mask, annotation or gt in its path). {LAYOUT}'
        )
    if both == [None]:
        endings = _endings(pictures[None], labels[None])
        splits = _divided(root, pictures[None], labels[None], endings, notes)
    else:
        named = [name for name in SPLITS if name in both]
        if 'train' not in named or len(named) < 2:
            found = _said({name: pictures[name] for name in named})
            raise ValueError(f'--data {root}: found {found}; training and validation are needed. {LAYOUT}')
        endings = _endings(pictures['train'], labels['train'])
        splits = {name: _split(root, pictures[name], labels[name], endings) for name in named}
        if alone := {name: one for name, one in (*pictures.items(), *labels.items()) if name not in named}:
            notes.append(f'left out: {_said(alone)}')
        if 'val' not in splits:
            notes.append('no pictures for val: those for test validate')
            splits['val'] = splits['test']
    return endings, splits


def _by_split(root: Path, folders: Sequence[Folder], wanted: bool) -> dict[str | None, Folder]:
    """Return the folders of pictures, or those of label images, by split."""
    chosen = [one for one in folders if _is_label(one.path.relative_to(root).parts) == wanted]
    return {split: joined([one for one in chosen if one.split == split]) for split in {one.split for one in chosen}}


def _is_label(parts: Sequence[str]) -> bool:
    lowered = [part.lower() for part in parts]
    return any(part.startswith(_LABELS) or part.endswith(('annot', 'labels', 'masks')) for part in lowered)


def _said(found: dict[str | None, Folder]) -> str:
    return (
        ', '.join(f'{split or "no split"} ({len(one.files)} in {one.path})' for split, one in found.items()) or 'none'
    )


def _endings(pictures: Folder, labels: Folder) -> tuple[str, str]:
    """Return what follows the common name of a picture and of its label image: ``('.jpg', '_mask.png')``."""
    first = Path(pictures.files[0])
    stem = first.with_suffix('')
    for cut in ('', *(f'_{word}' for word in stem.name.split('_')[1:][-1:])):
        name = str(stem)[: len(str(stem)) - len(cut)]
        found = [file for file in labels.files if file.startswith(name) and not file[len(name) :][:1].isalnum()]
        if found:
            return f'{cut}{first.suffix}', min(found, key=len)[len(name) :]
    raise FileNotFoundError(
        f'--data: the picture {first} in {pictures.path} has no label image; {labels.path} holds '
        f'{some(labels.files, 3)}. A label image has the name of its picture, perhaps with a word after it, as X.jpg '
        'and X_mask.png.'
    )


def _stems(folder: Folder, ending: str) -> list[str]:
    return [name.removesuffix(ending) for name in folder.files if name.endswith(ending)]


def _split(root: Path, pictures: Folder, labels: Folder, endings: tuple[str, str]) -> Split:
    own, known = _stems(pictures, endings[0]), set(_stems(labels, endings[1]))
    missing = [name for name in own if name not in known]
    if missing or not own:
        raise FileNotFoundError(
            f'--data: {len(missing)} of {len(pictures.files)} pictures in {pictures.path} have no label image '
            f'X{endings[1]} in {labels.path}: {some(missing, 3)}. Remove the pictures, or add the label images.'
        )
    return Split(str(pictures.path.relative_to(root)), str(labels.path.relative_to(root)), len(own))


def _divided(
    root: Path, pictures: Folder, labels: Folder, endings: tuple[str, str], notes: list[str]
) -> dict[str, Split]:
    """Divide pictures without splits; the files of names are written beside the configs."""
    whole = _split(root, pictures, labels, endings)
    train, val = two_parts(_stems(pictures, endings[0]))
    notes.append(
        f'the folders name no train and val: {len(train)} pictures train, {len(val)} validate (train.txt, val.txt)'
    )
    return {
        name: Split(whole.pictures, whole.labels, len(names), tuple(names))
        for name, names in (('train', train), ('val', val))
    }


def _classes(
    root: Path, images: Sequence[Path], given: Sequence[str], notes: list[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return class names and label values, see :class:`SegData`."""
    names, source = tuple(given), '--classes'
    if not names and (root / LIST).is_file():
        lines = (root / LIST).read_text(encoding='utf-8').splitlines()
        names, source = tuple(line.strip() for line in lines if line.strip()), LIST
    looked = [Path(path) for path in evenly([str(path) for path in images], COUNTED)]
    values = class_values(_values(looked))
    counted = values != tuple(range(len(values)))  # 0, 255 or 0, 38, 75: the values are not the numbers of classes
    if not names:
        notes.append(
            f'{len(values)} classes counted in {len(looked)} of {len(images)} label images (values '
            f'{some(values, 12)}); name them with --classes, or in {LIST} in the data folder'
        )
        return tuple(f'class_{value}' for value in values), values if counted else ()
    table = values if counted else tuple(range(len(names)))
    if len(names) < len(values) or len(names) != len(table):
        raise ValueError(
            f'{source}: {len(names)} names ({some(names)}), but the label images have the values {some(values, 12)} '
            f'({IGNORED} is ignored): name each in this order. The name {NO_CLASS} stands for pixels to ignore.'
        )
    kept = [(name, value) for name, value in zip(names, table, strict=True) if name != NO_CLASS]
    return tuple(name for name, _ in kept), tuple(value for _, value in kept) if counted or NO_CLASS in names else ()


def class_values(found: Sequence[int]) -> tuple[int, ...]:
    """Return the label values that are classes: 0 to the largest, or only those found where they are far apart.

    255 is ignored, unless it is needed: masks of 0 and 255 have two classes.
    """
    rest = [value for value in found if value != IGNORED]
    if len(rest) >= 2 and max(rest) < len(rest) + _GAP:
        return tuple(range(max(rest) + 1))
    return tuple(found) if len(found) >= 2 else (0, 1)


def _values(images: Sequence[Path]) -> tuple[int, ...]:
    found: set[int] = set()
    for path in images:
        with Image.open(path) as image:
            if image.mode not in ('L', 'P', 'I', '1', 'I;16'):
                raise ValueError(
                    f'{path}: a label image has one channel that holds the number of the class; this one has the mode '
                    f'{image.mode}. Convert colours to numbers first.'
                )
            found.update(np.unique(np.asarray(image)).tolist())
    return tuple(sorted(int(value) for value in found))
