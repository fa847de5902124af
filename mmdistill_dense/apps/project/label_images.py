"""Find the pictures, label images and classes of a segmentation data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmdistill_dense.apps.project.box_labels import BoxData, NoLabels, find_box_data, with_plain_names
from mmdistill_dense.apps.project.drawn_labels import (
    FOLDER,
    Drawing,
    bare,
    colours_drawing,
    is_coloured,
    objects_drawing,
)
from mmdistill_dense.apps.project.label_pairs import Endings, find_endings, labelled_names, of_no_classes
from mmdistill_dense.apps.project.label_values import LIST, Pair, check_splits, made_up_names, name_classes, read_values
from mmdistill_dense.apps.project.picture_folders import (
    LABELS,
    SPLITS,
    Folder,
    Wish,
    check_depth,
    check_folders,
    files_below,
    find_lists,
    is_label,
    joined,
    of_one_depth,
    picture_folders,
    read_lists,
    stored_pixels,
    stored_size,
    two_parts,
    usual_size,
)
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.literals import Template
from mmdistill_dense.utils.validate import some

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
    root: Path
    splits: dict[str, Split]
    endings: Endings
    classes: tuple[str, ...]
    values: tuple[int, ...]  # the label value of each class, where these are not 0, 1, 2, …
    size: tuple[int, int]  # usual height and width of a picture
    label_folders: tuple[Path, ...] = ()  # the folders that directly hold label images, of any kind
    notes: list[str] = field(default_factory=list)  # what was decided, for the user
    stored: bool = False  # whether pictures are read as they are stored, whatever their EXIF orientation
    drawing: Drawing | None = None  # the label images to write into the folder of the project

    @property
    def unnamed(self) -> bool:
        """Whether nobody named the classes."""
        return self.classes == made_up_names(self.values or range(len(self.classes)))


def find_seg_data(
    root: Path,
    given: Sequence[str] = (),
    exif: str | None = None,
    wish: Wish | None = None,
    background: str = 'class',
) -> SegData:
    """Find out what a folder holds: label images of numbers or colours, or objects with outlines."""
    root, wish = root.expanduser().resolve(), wish or Wish()
    if root.suffix == '.json' and root.is_file():
        return of_objects(find_box_data(root, given, exif, wish, 'seg'), background)
    folders = [part for one in picture_folders(root) for part in one.apart()]
    notes = list[str]()
    start = _start(root, folders)
    pictures, labels = _by_split(start, folders, False), _by_split(start, folders, True)
    if not labels:
        try:
            return of_objects(find_box_data(root, given, exif, wish, 'seg'), background)
        except NoLabels:  # the text below says what is needed
            pass
    for split in [one for one in pictures if one in labels]:
        pictures[split], labels[split] = of_one_depth(pictures[split], labels[split])
    pictures, labels, lists = _by_lists_or_folders(root, pictures, labels, wish)
    endings, splits = _splits(root, pictures, labels, lists, wish, notes)
    pairs = {split: pairs_of(root, split, endings) for split in splits.values()}
    partner = {picture: label for part in pairs.values() for picture, label in part}
    check_depth(list(partner), notes)
    stored = stored_pixels(list(partner), lambda picture: stored_size(partner[picture]), exif, notes)
    size = usual_size([picture for picture, _ in pairs[splits['train']]], stored)
    label_folders = tuple(one.path for one in folders if is_label(one.path.relative_to(start).parts))
    if is_coloured(list(partner.values())):
        named = {
            part: list(zip(names_of(root, split, endings), (label for _, label in pairs[split]), strict=True))
            for part, split in splits.items()
        }
        classes, drawing = colours_drawing(root, named, given, notes)
        written = {part: _written(part, split, [name for name, _ in named[part]]) for part, split in splits.items()}
        png = Endings(endings.pictures, '.png')
        return SegData(root, written, png, classes, (), size, label_folders, notes, stored, drawing)
    found = read_values(list(pairs.values()), stored)
    if endings.label.lower().endswith(('.jpg', '.jpeg')):
        lossy = f'label images X{endings.label}: JPEG changes values at edges. Write them as .png'
        if not given and not (root / LIST).is_file():
            raise ValueError(f'--data {root}: {lossy}; or name the classes by --classes, if no value was changed.')
        notes.append(f'WARNING: {lossy}')
    classes, values = name_classes(root, found, given, notes)
    by_value = dict(zip(values or range(len(classes)), classes, strict=True))
    check_splits(root, {name: found.of(pairs[split]) for name, split in splits.items()}, by_value, notes)
    return SegData(root, splits, endings, classes, values, size, label_folders, notes, stored)


def of_objects(data: BoxData, background: str) -> SegData:
    """Return a data set of objects as one of label images, which are drawn from their outlines."""
    data = with_plain_names(data)
    classes, drawing = objects_drawing(data, background)
    splits = {}
    for part, split in data.splits.items():
        names = [bare(name) for name in split.files]
        splits[part] = _written(part, Split(split.pictures.rstrip('/'), '', len(names)), names)
    suffixes = sorted({os.path.splitext(name)[1] for split in data.splits.values() for name in split.files})
    rest = 'are ignored' if background == 'ignore' else f'are the class {classes[0]}'
    notes = [*data.notes, f'label images are drawn from the outlines; pixels outside all of them {rest}']
    endings = Endings(tuple(suffixes), '.png')
    _check_read(data, endings)
    return SegData(data.root, splits, endings, classes, (), data.size, (), notes, data.stored, drawing)


def _check_read(data: BoxData, endings: Endings) -> None:
    """Refuse a listed picture in whose place mmseg would read another one, because it names them without endings."""
    for split in data.splits.values():
        folder = data.root / split.pictures
        for name in split.files:
            if (read := endings.picture(folder, bare(name))) != folder / name:
                raise ValueError(
                    f'--data: {folder / name} is listed, but mmseg names pictures without their endings, and would '
                    f'read {read}. Give this one another name, or take it out.'
                )


def _written(part: str, split: Split, names: Sequence[str]) -> Split:
    """Return a split whose label images are written into the folder of the project."""
    return Split(split.pictures, Template(f'{{{{ fileDirname }}}}/{FOLDER}/{part}'), len(names), tuple(names))


Found = dict[str | None, Folder]


def _by_lists_or_folders(
    root: Path, pictures: Found, labels: Found, wish: Wish
) -> tuple[Found, Found, dict[str, list[Path]]]:
    """Return pictures and label images by part, or as one with the parts that lists or ``--split`` tell."""
    every = [one for one in pictures.values() if labels]
    lists = find_lists(root, 'seg', wish) if every else {}
    if not lists and wish.share is None:
        return pictures, labels, {}
    found = read_lists(lists, root, [one.path / name for one in every for name in one.files]) if lists else {}
    if not wish.lists:
        check_folders(found, root, lists)
    if wish == Wish() and None not in pictures:
        return pictures, labels, {}  # the folders tell the same
    whole = [replace(joined(list(one.values())), split=None) for one in (pictures, labels)]
    return {None: whole[0]}, {None: whole[1]}, found


def names_of(root: Path, split: Split, endings: Endings) -> Sequence[str]:
    """Return the names that a split's pictures share with their label images."""
    return split.names or sorted(_by_name_below(root / split.pictures, endings))


def pairs_of(root: Path, split: Split, endings: Endings) -> list[Pair]:
    folder, labels = root / split.pictures, root / split.labels
    names = names_of(root, split, endings)
    return [(endings.picture(folder, name), labels / f'{name}{endings.label}') for name in names]


def _by_name_below(folder: Path, endings: Endings) -> dict[str, str]:
    """Return the pictures that a training reads without a list."""
    return endings.by_name(sorted(str(path.relative_to(folder)) for path in files_below(folder, EXTENSIONS)))


def _splits(
    root: Path, pictures: Found, labels: Found, lists: Mapping[str, Sequence[Path]], wish: Wish, notes: list[str]
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
        return endings, _divided(root, pictures[both[0]], labels[both[0]], endings, lists, wish, notes)
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
        notes.append(f'{"WARNING: " if None in both else ""}left out: {_said(alone)}')
    if 'val' not in splits:
        notes.append('no pictures for val: those for test validate')
        splits['val'] = splits['test']
    return endings, splits


def _missing(root: Path, pictures: Found, labels: Found) -> str:
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
    kinds = {start: {one.holds_labels(start) for one in folders} for start in (root, common)}
    return common if kinds[root] == {True} and len(kinds[common]) == 2 else root


def _by_split(start: Path, folders: Sequence[Folder], wanted: bool) -> Found:
    """Return one folder for each split, of its label images if ``wanted``, else of its pictures."""
    # where there are folders of classes, those of objects are left out, as in VOC
    chosen = [one for one in folders if one.holds_labels(start) == wanted]
    found = {}
    for split in dict.fromkeys(one.split for one in chosen):
        own = [one for one in chosen if one.split == split]
        classes = [one for one in own if not (wanted and of_no_classes(one.path.name))]
        found[split] = joined(classes or own)
    return found


def _said(found: Found) -> str:
    said = (f'{split or "no split"} ({len(one.files)} in {one.path})' for split, one in found.items())
    return ', '.join(said) or 'none'


def _split(root: Path, pictures: Folder, labels: Folder, endings: Endings, notes: list[str]) -> Split:
    least = 2 if pictures.split == 'train' else 1
    names = labelled_names(pictures, labels, endings, least, notes)
    listed = set(names) != set(_by_name_below(pictures.path, endings))  # parts may lie in one folder
    return Split(*_places(root, pictures, labels), len(names), tuple(names) if listed else ())


def _places(root: Path, pictures: Folder, labels: Folder) -> tuple[str, str]:
    return str(pictures.path.relative_to(root)), str(labels.path.relative_to(root))


def _divided(
    root: Path,
    pictures: Folder,
    labels: Folder,
    endings: Endings,
    lists: Mapping[str, Sequence[Path]],
    wish: Wish,
    notes: list[str],
) -> dict[str, Split]:
    """Divide the pictures of one folder, as lists say or by chance; lists of the parts are written."""
    labelled = labelled_names(pictures, labels, endings, 3, notes)
    if not lists:
        train, val = two_parts(labelled, pictures.path, wish.part)
        told = f'{len(train)} pictures of {pictures.path} train, {len(val)} validate'
        notes.append(f'no folder for val: {told} (train.txt, val.txt)')
        parts = {'train': train, 'val': val}
    else:
        parts = _by_lists(pictures, labelled, endings, lists)
        if set(parts) == {'train'}:
            parts = dict(zip(('train', 'val'), two_parts(parts['train'], pictures.path, wish.part), strict=True))
            notes.append('no list for val: a part of the list for train validates')
        counts = ', '.join(f'{len(names)} {part}' for part, names in parts.items())
        left = len(labelled) - sum(map(len, parts.values()))
        notes.append(f'split of the lists of names: {counts}' + (f'; {left} pictures are in no list' if left else ''))
        if 'val' not in parts:
            notes.append('no list for val: that for test validates')
            parts['val'] = parts['test']
    return {part: Split(*_places(root, pictures, labels), len(own), tuple(own)) for part, own in parts.items()}


def _by_lists(
    pictures: Folder, labelled: Sequence[str], endings: Endings, lists: Mapping[str, Sequence[Path]]
) -> dict[str, list[str]]:
    """Return the names of each part; every listed picture must have a label image."""
    names = {pictures.path / file: name for name, file in endings.by_name(pictures.files).items()}
    known, found = set(labelled), {}
    for part, own in lists.items():
        bare_ones = [one for one in own if names.get(one) not in known]
        if bare_ones:
            raise FileNotFoundError(
                f'--data: {len(bare_ones)} of the {len(own)} pictures listed for {part} have no label image: '
                f'{some(bare_ones, 3)}. Add it, or take the name out of the list.'
            )
        found[part] = [names[one] for one in own]
    return found
