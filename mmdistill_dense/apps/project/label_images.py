"""Find the pictures, label images and classes of a segmentation data set."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmdistill_dense.apps.project.box_labels import BoxData, NoLabels, find_box_data
from mmdistill_dense.apps.project.drawn_labels import (
    FOLDER,
    Drawing,
    bare,
    colours_drawing,
    is_coloured,
    objects_drawing,
)
from mmdistill_dense.apps.project.label_pairs import Endings, find_endings, labelled_names, of_no_classes
from mmdistill_dense.apps.project.parts import Wish, check_folders, find_lists, read_lists
from mmdistill_dense.apps.project.picture_folders import (
    BESIDE,
    LABELS,
    SPLITS,
    Folder,
    files_below,
    is_label,
    joined,
    opened,
    picture_folders,
    size_of,
    size_text,
    stored_pixels,
    stored_size,
    two_parts,
    usual_size,
)
from mmdistill_dense.datasets.written_labels import IGNORED
from mmdistill_dense.unlabelled.pictures import EXTENSIONS, same_pictures
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.literals import Template
from mmdistill_dense.utils.messages import some

UNLABELLED_LIST = 'unlabelled.txt'


@dataclass(frozen=True)
class FreePictures:
    """Pictures without labels."""

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
    free, counts = list(pictures), dict[str, int]()
    for what, taken in _taken(free, data, folder):
        left = [path for path in free if path not in taken]
        free, counts[what] = left, len(free) - len(left)
    left_out = ', '.join(f'{count} {what}' for what, count in counts.items() if count)
    if len(free) < batch:
        of_which = f', of which {left_out} cannot be taught on: {len(free)} are left' if left_out else ''
        raise ValueError(
            f'--unlabelled {given}: {len(pictures)} pictures in it or below it (files that end in '
            f'{", ".join(EXTENSIONS)}){of_which}; a step takes {batch}. Add pictures, or leave the option out.'
        )
    names = tuple(path.relative_to(folder).as_posix() for path in free) if left_out else ()
    return FreePictures(folder, len(free), names, left_out)


def _taken(pictures: list[Path], data: SegData | BoxData, folder: Path) -> Iterator[tuple[str, set[Path]]]:
    """Yield the pictures that cannot be taught on, by what they are. One may come twice.

    Data of boxes have no folders of label images; those of other tasks may still lie in the folder, and have names.
    """
    if isinstance(data, SegData):
        labels = {os.path.realpath(one) for one in data.label_folders}
        beside = data.endings.label if data.endings.label == BESIDE else '\0'
        yield (
            'label images',
            {path for path in pictures if os.path.realpath(path.parent) in labels or path.name.endswith(beside)},
        )
    else:
        yield 'label images', {path for path in pictures if is_label(path.relative_to(folder).parts[:-1])}
    seen = set[str]()
    for name in ('val', 'test', 'train'):
        if name in data.splits:
            own = [path for path in pictures_of(data, name) if path not in seen]
            seen.update(own)
            bare = {os.path.splitext(os.path.realpath(path))[0] for path in own}  # X.png beside X.jpg shows the same
            same = same_pictures([str(path) for path in pictures], own)
            twins = {path for path in pictures if os.path.splitext(os.path.realpath(path))[0] in bare}
            yield f'of {name}', {Path(path) for path in same} | twins


def shared(data: SegData | BoxData) -> Iterator[str]:
    """Yield a warning for pictures of another split that also train, as the same file or as a copy."""
    train = pictures_of(data, 'train')
    for name in [name for name in data.splits if name != 'train']:
        own = pictures_of(data, name)
        if same := same_pictures(own, train):
            first = [path if path == other else f'{path} is {other}' for path, other in same.items()]
            yield (
                f'WARNING: {len(same)} of the {len(own)} pictures for {name} also train ({some(first, 3)}): the scores '
                'will be too high'
            )


def pictures_of(data: SegData | BoxData, name: str) -> list[str]:
    """Return the paths of the pictures of a split."""
    if isinstance(data, SegData):
        return [str(picture) for picture, _ in pairs_of(data.root, data.splits[name], data.endings)]
    split = data.splits[name]
    return [str(data.root / split.pictures / file) for file in split.files]


COUNTED = 200  # label images of each split whose values are read
LIST = 'classes.txt'
CSV = '_classes.csv'  # Roboflow's: a line `Pixel Value, Class`, then a line a class
NO_CLASS = '-'
_CLASSES = re.compile(r'(class|label).*\.(json|csv|txt|ya?ml)$')
_GAP = 10  # missing values that a rare class may explain
Pair = tuple[Path, Path]  # a picture and its label image


@dataclass(frozen=True)
class Values:
    """The values in label images."""

    files: Mapping[int, Sequence[Path]]  # the label images of each value; the values are sorted
    looked: int  # how many were read
    total: int  # how many there are

    def of(self, pairs: Iterable[Pair]) -> list[int]:
        """Return the values in the label images of a split, of those that were read."""
        labels = {label for _, label in pairs}
        return [value for value, files in self.files.items() if not labels.isdisjoint(files)]

    @property
    def said(self) -> str:
        """The values, for a message, with a file that has the highest one."""
        named = [value for value in self.files if value != IGNORED] or list(self.files)
        return f'{some(self.files, 12)} (the {named[-1]} for instance in {self.files[named[-1]][0]})'


def read_values(splits: Sequence[Sequence[Pair]], stored: bool) -> Values:
    """Read some pairs of each split; pictures as they are ``stored``, or as EXIF turns them."""
    files: dict[int, list[Path]] = {}
    looked = [pair for split in splits for pair in evenly(split, COUNTED)]
    for path, label in looked:
        with opened(label) as image:
            if image.mode not in ('L', 'P', 'I', '1', 'I;16'):
                raise ValueError(
                    f'--data: {label} has the mode {image.mode}, and others do not. A label image has one '
                    'channel that holds the number of the class, or the colour of the class in each of them.'
                )
            size = size_of(image, stored=True)
            values = np.unique(np.asarray(image)).tolist()
        if max(values) > IGNORED:
            raise ValueError(
                f'--data: {label} holds the value {max(values)}; label images are read as 8 bits, so a class has a '
                f'number from 0 to {IGNORED - 1}, and {IGNORED} is ignored. Number the classes anew.'
            )
        for value in values:
            files.setdefault(int(value), []).append(label)
        with opened(path) as picture:
            found = size_of(picture, stored)
        if found != size:
            advice = 'Bring the label image to the size of the picture, without mixing its values (nearest pixel).'
            if found == size[::-1]:
                advice = 'Its sides are swapped: turn it as the picture is turned.'
            raise ValueError(
                f'--data: {path} has {size_text(found)} pixels, its label image {label} has {size_text(size)}. {advice}'
            )
    return Values(dict(sorted(files.items())), len(looked), sum(map(len, splits)))


def name_classes(
    root: Path, found: Values, given: Sequence[str], notes: list[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return class names and label values, see :class:`mmdistill_dense.apps.project.label_images.SegData`."""
    names, source = tuple(given), '--classes'
    if not names and (root / LIST).is_file():
        names, source = _listed(root / LIST), str(root / LIST)
    if not names and (root / CSV).is_file():
        names, source = _valued(root / CSV), str(root / CSV)
    if len(found.files) == 1:
        only = next(iter(found.files))
        raise ValueError(
            f'--data {root}: the {found.looked} label images that were looked at hold the value {only} alone, so there '
            'is nothing to learn. A label image holds the number of the class at each pixel.'
        )
    values = class_values(tuple(found.files))
    counted = values != tuple(range(len(values)))  # 0, 255 or 0, 38, 75: the values are not the numbers of classes
    if counted and len(found.files[values[-1]]) == 1 and found.looked > 1:
        notes.append(f'the value {values[-1]} stands in one label image alone: {found.files[values[-1]][0]}')
    if not names:
        there = [value for value in values if value in found.files]
        notes.append(
            f'{len(values)} classes, from the values {some(there, 12)} in {found.looked} of {found.total} label '
            f'images; name them with --classes, or in {LIST} in the data folder{_unread(root)}'
        )
        names = made_up_names(values)
    table = values if counted else tuple(range(len(names)))
    if len(names) < len(values) or len(names) != len(table):
        apart = ' Names stand apart: --classes sky road.' if len(names) == 1 and ',' in names[0] else ''
        raise ValueError(
            f'{source}: {len(names)} names ({some(names)}), but the label images have the values {found.said}; '
            f'{IGNORED} is ignored. Name each value in this order, the missing ones between them too.{apart} The name '
            f'{NO_CLASS} stands for pixels to ignore.'
        )
    kept = [(name, value) for name, value in zip(names, table, strict=True) if name != NO_CLASS]
    if twice := {name for name, _ in kept if [one for one, _ in kept].count(name) > 1}:
        raise ValueError(
            f'{source}: {some(sorted(twice))} twice. Give each class its own name; {NO_CLASS} ignores a value.'
        )
    if unseen := [f'{name} ({value})' for name, value in kept if value not in found.files]:
        notes.append(f'no pixel of the {found.looked} label images that were looked at has: {some(unseen)}')
    return tuple(name for name, _ in kept), tuple(value for _, value in kept) if counted or NO_CLASS in names else ()


def _listed(path: Path) -> tuple[str, ...]:
    """Return the names in a file; numbers 0, 1, 2, … before them are no part of the names."""
    try:
        lines = [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f'--data: {path} is not written in UTF-8 ({error}). Save it as UTF-8.') from error
    parts = [line.split(maxsplit=1) for line in lines]
    numbered = all(len(part) == 2 and part[0].rstrip(':.,') == str(number) for number, part in enumerate(parts))
    return tuple(part[1] for part in parts) if numbered else tuple(lines)


def _valued(path: Path) -> tuple[str, ...]:
    """Return the names in a list of values and names, in the order of the values from 0."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(path.read_text(encoding='utf-8-sig').splitlines())]
    found = {row[0]: row[1] for row in rows if len(row) == 2 and row[0].isdigit()}
    if list(found) != [str(value) for value in range(len(found))] or not found:
        raise ValueError(f'--data: {path}: its lines are not "value, name" with the values 0, 1, 2, … in this order.')
    return tuple(found.values())


def _unread(root: Path) -> str:
    """Say which files look like lists of classes and are not read."""
    found = [one.name for one in sorted(root.iterdir()) if _CLASSES.match(one.name.lower()) and one.is_file()]
    return f' ({some(found)} is not read)' if found else ''


def made_up_names(values: Iterable[int]) -> tuple[str, ...]:
    """Return a name for each label value, where nobody named the classes."""
    return tuple(f'class_{value}' for value in values)


def check_splits(root: Path, found: Mapping[str, Sequence[int]], names: Mapping[int, str], notes: list[str]) -> None:
    """Refuse a split whose label images hold no class. Those of test sets with secret labels hold none."""
    for name, seen in found.items():
        if seen == [IGNORED] and IGNORED not in names:
            raise ValueError(
                f'--data {root}: all pixels of the label images for {name} are {IGNORED}, which is ignored, so they '
                'measure nothing. Take this split out of the folder, or add its labels.'
            )
        if alone := [f'{names[value]} ({value})' for value in seen if value in names and value not in found['train']]:
            notes.append(
                f'WARNING: in label images for {name}, and in none of those for train that were looked at: '
                f'{some(alone)}. Nobody can learn it, and its score of 0 enters the mean'
            )


def class_values(found: Sequence[int]) -> tuple[int, ...]:
    """Return the label values that are classes: 0 to the largest, or only those found where they are far apart.

    255 is ignored, unless it is needed: masks of 0 and 255 have two classes.
    """
    rest = [value for value in found if value != IGNORED]
    if len(rest) >= 2 and max(rest) < len(rest) + _GAP:
        return tuple(range(max(rest) + 1))
    return tuple(found) if len(found) >= 2 else (0, 1)


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
    """A data set of pictures and label images."""

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
    pictures, labels, lists = _by_lists_or_folders(root, pictures, labels, wish)
    endings, splits = _splits(root, pictures, labels, lists, wish, notes)
    pairs = {split: pairs_of(root, split, endings) for split in splits.values()}
    partner = {picture: label for part in pairs.values() for picture, label in part}
    stored = stored_pixels(list(partner), lambda picture: stored_size(partner[picture]), exif, notes)
    size = usual_size([picture for picture, _ in pairs[splits['train']]], stored)
    label_folders = tuple(one.path for one in folders if is_label(one.path.relative_to(start).parts))
    if is_coloured(list(partner.values())):
        named = {part: [(_name(root, split, one[0]), one[1]) for one in pairs[split]] for part, split in splits.items()}
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
    classes, drawing = objects_drawing(data, background)
    splits = {}
    for part, split in data.splits.items():
        names = [bare(name) for name in split.files]
        splits[part] = _written(part, Split(split.pictures.rstrip('/'), '', len(names)), names)
    suffixes = sorted({os.path.splitext(name)[1] for split in data.splits.values() for name in split.files})
    rest = 'are ignored' if background == 'ignore' else f'are the class {classes[0]}'
    notes = [*data.notes, f'label images are drawn from the outlines; pixels outside all of them {rest}']
    endings = Endings(tuple(suffixes), '.png')
    return SegData(data.root, splits, endings, classes, (), data.size, (), notes, data.stored, drawing)


def _written(part: str, split: Split, names: Sequence[str]) -> Split:
    """Return a split whose label images are written into the folder of the project."""
    return Split(split.pictures, Template(f'{{{{ fileDirname }}}}/{FOLDER}/{part}'), len(names), tuple(names))


def _name(root: Path, split: Split, picture: Path) -> str:
    return bare(picture.relative_to(root / split.pictures).as_posix())


Found = dict[str | None, Folder]


def _by_lists_or_folders(
    root: Path, pictures: Found, labels: Found, wish: Wish
) -> tuple[Found, Found, dict[str, list[Path]]]:
    """Return pictures and label images, and the pictures of each part where lists or ``--split`` tell it.

    Folders of parts are then taken as one.
    """
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


def pairs_of(root: Path, split: Split, endings: Endings) -> list[Pair]:
    """Return the pictures of a split with their label images."""
    folder = root / split.pictures
    files = endings.by_name(sorted(str(path.relative_to(folder)) for path in files_below(folder, EXTENSIONS)))
    return [
        (folder / files[name], root / split.labels / f'{name}{endings.label}') for name in split.names or sorted(files)
    ]


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
        notes.append(f'left out: {_said(alone)}')
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
    """Return one folder for each split, of its label images if ``wanted``, else of its pictures.

    Folders of objects are left out where there are folders of classes, as in VOC.
    """
    chosen = [one for one in folders if one.holds_labels(start) == wanted]
    found = {}
    for split in dict.fromkeys(one.split for one in chosen):
        own = [one for one in chosen if one.split == split]
        classes = [one for one in own if not (wanted and of_no_classes(one.path.name))]
        found[split] = joined(classes or own)
    return found


def _said(found: Found) -> str:
    return (
        ', '.join(f'{split or "no split"} ({len(one.files)} in {one.path})' for split, one in found.items()) or 'none'
    )


def _split(root: Path, pictures: Folder, labels: Folder, endings: Endings, notes: list[str]) -> Split:
    least = 2 if pictures.split == 'train' else 1
    names, all_of_them = labelled_names(pictures, labels, endings, least, notes)
    return Split(*_places(root, pictures, labels), len(names), () if all_of_them else tuple(names))


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
    labelled, _ = labelled_names(pictures, labels, endings, 3, notes)
    if not lists:
        train, val = two_parts(labelled, pictures.path, wish.part)
        notes.append(
            f'no folder for val: {len(train)} pictures of {pictures.path} train, {len(val)} validate (train.txt, '
            'val.txt)'
        )
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
