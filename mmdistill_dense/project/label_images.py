"""Find the pictures, label images and classes of a segmentation data set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmdistill_dense.datasets.unlabeled import EXTENSIONS
from mmdistill_dense.project.class_values import Pair, check_splits, name_classes, read_values
from mmdistill_dense.project.open_pictures import usual_size
from mmdistill_dense.project.picture_folders import SPLITS, Folder, files_below, joined, picture_folders, two_parts
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.messages import some

_LABELS = ('label', 'mask', 'annot', 'gt', 'seg')  # beginnings of a part of the path, or endings
_NO_CLASSES = ('object', 'instance', 'color', 'colour')  # label images for the eye, or that number objects
_LOOKED = 20  # pictures whose label images are looked for
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
        ValueError: For a layout that is not clear, files that cannot be read, label images in colours or of another
            size than their pictures, or another number of names than values.
    """
    root = root.expanduser().resolve()
    folders, notes = picture_folders(root), list[str]()
    start = _start(root, folders)
    pictures, labels = _by_split(start, folders, False), _by_split(start, folders, True)
    endings, splits = _splits(root, pictures, labels, notes)
    pairs = {split: pairs_of(root, split, endings) for split in splits.values()}
    found = read_values(list(pairs.values()))
    classes, values = name_classes(root, found, given, notes)
    check_splits(root, {name: found.of(pairs[split]) for name, split in splits.items()}, values)
    if endings[1].lower().endswith(('.jpg', '.jpeg')):
        notes.append(f'WARNING: label images X{endings[1]}: JPEG changes the values at edges. Write them as .png')
    size = usual_size([picture for picture, _ in pairs[splits['train']]])
    return SegData(root, splits, endings, classes, values, size, notes)


def pairs_of(root: Path, split: Split, endings: tuple[str, str]) -> list[Pair]:
    """Return the pictures of a split with their label images."""
    folder = root / split.pictures
    there = files_below(folder, (endings[0].lower(),))
    names = split.names or _stems(sorted(str(path.relative_to(folder)) for path in there), endings[0])
    return [(folder / f'{name}{endings[0]}', root / split.labels / f'{name}{endings[1]}') for name in names]


def _splits(
    root: Path, pictures: dict[str | None, Folder], labels: dict[str | None, Folder], notes: list[str]
) -> tuple[tuple[str, str], dict[str, Split]]:
    """Return the endings of pictures and label images, and the splits that have both."""
    both = [split for split in pictures if split in labels]
    if not both:
        raise ValueError(
            f'--data {root}: pictures for {_said(pictures)}; label images for {_said(labels)}. '
            f'{_missing(root, pictures, labels)} {LAYOUT}'
        )
    if both == [None] or (both == ['train'] and 'val' not in {*pictures, *labels}):
        endings = _endings(pictures[both[0]], labels[both[0]])
        return endings, _divided(root, pictures[both[0]], labels[both[0]], endings, notes)
    named = [name for name in SPLITS if name in both]
    if 'train' not in named or len(named) < 2:
        found = _said({name: pictures[name] for name in named})
        raise ValueError(
            f'--data {root}: found pictures with labels for {found}; training and validation are needed. Without any '
            f'folder for val, a fifth of the pictures for train validates. {LAYOUT}'
        )
    endings = _endings(pictures['train'], labels['train'])
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
    boxes = (
        ' (the json files there look like labels of boxes, for networks of mmdet::)'
        if files_below(root, ('.json',))
        else ''
    )
    return (
        f'The name of a folder of label images begins with {", ".join(_LABELS)}, or ends in labels or masks: rename it '
        f'so{boxes}.'
    )


def _start(root: Path, folders: Sequence[Folder]) -> Path:
    """Return the folder below which names tell label images: the root, or one that all lie in, as ``segdata``."""
    common = Path(os.path.commonpath([one.path for one in folders]))
    kinds = {start: {_is_label(one.path.relative_to(start).parts) for one in folders} for start in (root, common)}
    return common if kinds[root] == {True} and len(kinds[common]) == 2 else root


def _by_split(start: Path, folders: Sequence[Folder], wanted: bool) -> dict[str | None, Folder]:
    """Return one folder for each split, of its label images if ``wanted``, else of its pictures.

    Folders of objects are left out where there are folders of classes, as in VOC.
    """
    chosen = [one for one in folders if _is_label(one.path.relative_to(start).parts) == wanted]
    found = {}
    for split in dict.fromkeys(one.split for one in chosen):
        own = [one for one in chosen if one.split == split]
        classes = [one for one in own if not (wanted and _of_no_classes(one.path.name))]
        found[split] = joined(classes or own)
    return found


def _is_label(parts: Sequence[str]) -> bool:
    lowered = [part.lower() for part in parts]
    return any(part.startswith(_LABELS) or part.endswith(('annot', 'labels', 'masks')) for part in lowered)


def _said(found: dict[str | None, Folder]) -> str:
    return (
        ', '.join(f'{split or "no split"} ({len(one.files)} in {one.path})' for split, one in found.items()) or 'none'
    )


def _endings(pictures: Folder, labels: Folder) -> tuple[str, str]:
    """Return what follows the common name of a picture and of its label image: ``('.jpg', '_mask.png')``."""
    found: Counter[tuple[str, str]] = Counter()
    for file in evenly(pictures.files, _LOOKED):
        stem, suffix = os.path.splitext(file)
        for cut in ('', *(f'_{word}' for word in Path(stem).name.split('_')[1:][-1:])):
            name = stem.removesuffix(cut)
            ends = [one[len(name) :] for one in labels.files if one.startswith(name)]
            found.update((f'{cut}{suffix}', end) for end in ends if not end[:1].isalnum())
    if found:
        return max(found, key=lambda pair: (found[pair], *_rank(pair[1]), -len(pair[0])))
    raise FileNotFoundError(
        f'--data: the picture {pictures.files[0]} in {pictures.path} has no label image; {labels.path} holds '
        f'{some(labels.files, 3)}. A label image has the name of its picture, perhaps with a word after it, as X.jpg '
        'and X_mask.png.'
    )


def _rank(ending: str) -> tuple[bool, bool, int]:
    """Rank an ending of label images: the higher, the more likely they hold classes. Cityscapes has four endings."""
    return not _of_no_classes(ending), 'trainid' in ending.lower(), -len(ending)


def _of_no_classes(name: str) -> bool:
    return any(word in name.lower() for word in _NO_CLASSES)


def _stems(files: Sequence[str], ending: str) -> list[str]:
    return [name.removesuffix(ending) for name in files if name.endswith(ending)]


def _split(root: Path, pictures: Folder, labels: Folder, endings: tuple[str, str], notes: list[str]) -> Split:
    own, known = _stems(pictures.files, endings[0]), set(_stems(labels.files, endings[1]))
    missing = [name for name in own if name not in known]
    other = [name for name in pictures.files if not name.endswith(endings[0])]
    if not own:
        raise FileNotFoundError(
            f'--data: no picture in {pictures.path} ends in {endings[0]}, as those for train do: {some(other, 3)}. A '
            'data set reads one ending: convert or rename them.'
        )
    if other:
        notes.append(
            f'WARNING: {len(other)} of {len(pictures.files)} pictures in {pictures.path} do not end in {endings[0]} '
            f'and are left out: {some(other, 3)}'
        )
    if missing:
        raise FileNotFoundError(
            f'--data: {len(missing)} of {len(own)} pictures in {pictures.path} have no label image '
            f'X{endings[1]} in {labels.path}: {some(missing, 3)}. Remove the pictures, or add the label images.'
        )
    return Split(str(pictures.path.relative_to(root)), str(labels.path.relative_to(root)), len(own))


def _divided(
    root: Path, pictures: Folder, labels: Folder, endings: tuple[str, str], notes: list[str]
) -> dict[str, Split]:
    """Divide the pictures of one folder; the files of names are written beside the configs."""
    whole = _split(root, pictures, labels, endings, notes)
    train, val = two_parts(_stems(pictures.files, endings[0]), pictures.path)
    notes.append(
        f'no folder for val: {len(train)} pictures of {pictures.path} train, {len(val)} validate (train.txt, val.txt)'
    )
    return {
        name: Split(whole.pictures, whole.labels, len(names), tuple(names))
        for name, names in (('train', train), ('val', val))
    }
