"""Find the pictures, labels and classes of a data set of boxes and polygons."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.project import picture_folders as folders
from mmdistill_dense.apps.project.formats import json_files, xml_files, yolo
from mmdistill_dense.apps.project.formats.objects import Labelled, Reading, Request, mend
from mmdistill_dense.apps.project.label_values import hint_of_void
from mmdistill_dense.apps.project.picture_folders import SPLITS, Count, Split, Wish, table
from mmdistill_dense.apps.project.picture_sources import note_of, two_parts
from mmdistill_dense.datasets.label_files import has_mask
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.literals import Template
from mmdistill_dense.utils.validate import close_or_all, some

Parts = dict[str, list[Labelled]]


@dataclass(frozen=True)
class BoxData:
    root: Path
    splits: dict[str, Split]
    classes: tuple[str, ...]
    masks: bool  # whether every object has one
    size: tuple[int, int]  # usual height and width of a picture
    notes: list[str] = field(default_factory=list)  # what was decided, for the user
    stored: bool = False  # whether pictures are read as they are stored, whatever their EXIF orientation
    parts: Parts = field(default_factory=dict)  # what the files of the splits hold
    label_images: frozenset[str] = frozenset()  # there are none

    @property
    def pictures(self) -> dict[str, list[str]]:
        return {part: [str(one.picture) for one in own] for part, own in self.parts.items()}


class NoLabels(FileNotFoundError):
    """A folder without a label file of a known format."""


def find_box_data(
    given: Path, classes: Sequence[str] = (), exif: str | None = None, wish: Wish | None = None, task: str = 'det'
) -> BoxData:
    """Find out what the folder or the json file of ``--data`` holds, of the categories of ``--classes``."""
    root = given = given.expanduser().resolve()
    wish = wish or Wish()
    with folders.named(given):
        if given.suffix == '.json' and given.is_file():  # `annotations` holds no pictures
            root = given.parent if folders.files_below(given.parent, EXTENSIONS) else given.parent.parent
        every = folders.pictures_below(root)
        reading = _read(Request(root, every, classes, exif, wish != Wish(), task), given)
        notes, told = reading.notes, {one.picture: one.size or (0, 0) for one in reading.pictures}
        stored = folders.look_at(list(told), told.__getitem__, exif, notes, least=2 if task == 'seg' else 1)
        lost = [file.name for files in reading.skipped_files.values() for file in files]
        if unread := folders.other_endings(root, lost):
            notes.append(f'WARNING:{unread}')
        mend(reading, stored, task == 'seg')
        flat = [one.picture.name for one in reading.pictures for each in one.objects if not has_mask(each)]
        count = sum(len(one.objects) for one in reading.pictures)
        why = list(reading.mask_errors.values())
        if 0 < len(flat) < count:
            why.append(f'{len(flat)} of {count} boxes have no polygon or mask ({some(flat, 3)})')
        notes += [f'WARNING: {one}. So the data have no masks for networks that predict them' for one in why]
        parts: Parts = _told_parts(reading, wish)
        lists = dict[str, Path]()
        names = _classes(reading, parts.get('train') or next(iter(parts.values())), classes)
        notes += hint_of_void(names, more=('background',) if task == 'det' else ())
        outside = folders.outside_labels(root, every)
        if divided := '' in parts:
            pictures = parts['']
            _check_boxes(reading, parts, names)
            known = dict.fromkeys(one.picture for one in pictures)
            lists, listed = folders.read_lists(root, task, wish, list({**known, **dict.fromkeys(outside)}), known)
            parts = _divided(pictures, names, listed, wish, reading.source)
            used = {one.picture for own in parts.values() for one in own}
            _lose(reading, 'are in pictures of no list', [one for one in pictures if one.picture not in used])
            shares = ', '.join(f'{len(own)} {part}' for part, own in parts.items())
            notes.append(f'split {f"of {some(map(str, lists.values()))}" if lists else "that is drawn"}: {shares}')
            if len(listed) < 2:
                notes += note_of(*([str(one.picture) for one in parts[part]] for part in ('train', 'val')))
        _check_boxes(reading, parts, names)
        of_train = {each['name'] for one in parts['train'] for each in one.objects if not each['iscrowd']}
        if unseen := [name for name in names if name not in of_train]:
            notes.append(f'WARNING: no box in training but those of iscrowd=1, so nobody can learn it: {some(unseen)}')
        same = {part for part, own in reading.categories.items() if [*filter(names.__contains__, own)] == [*names]}
        kept = () if divided else {part for part in same - reading.incomplete if not reading.changes[part]}
        splits = {part: _split(part, parts[part], reading, root, part in kept) for part in SPLITS if part in parts}
        if task == 'det' and (written := [f'{part}.json' for part, split in splits.items() if split.content]):
            notes.append(f'written for training and metric: {", ".join(written)}')
        if 'val' not in splits:
            notes.append('no label file for val: that for test validates')
            splits['val'], parts['val'] = splits['test'], parts['test']
        counts = _count(root, reading, lists, outside, parts, names)
        notes[:0] = table(f'{reading.form} ({reading.source})', counts)
        size = folders.usual_size([one.size for one in parts['train'] if one.size])
        masks = not reading.mask_errors and all(
            has_mask(each) for own in parts.values() for one in own for each in one.objects
        )
        return BoxData(root, splits, names, masks, size, notes, stored, parts)


def _read(given: Request, path: Path) -> Reading:
    """Read the first format that the folder, or the file, holds."""
    files = [path] if path.is_file() else sorted(folders.files_below(given.root, ('.json',)))
    found, shapes = json_files.read_coco(given, files, predictions=path.is_file())
    if found.pictures:
        return found
    rows = yolo.recognise(given)
    if len(rows) > len(shapes):  # the form of most pictures: both may be there
        others = yolo.read(given, rows)
    elif shapes:
        others = json_files.read_labelme(given, shapes)
    elif drawn := xml_files.recognise(given):
        others = xml_files.read(given, drawn)
    else:
        found, _ = json_files.read_coco(given, files, predictions=True)
        if not found.pictures:
            raise NoLabels(f'--data {given.root}: {_none_found(given, files)} {json_files.FORMATS}')
        return found
    others.skipped_files |= found.skipped_files
    if twice := folders.repeated(one.picture for one in others.pictures):
        told = f'{len(twice)} pictures have labels twice in {others.source}: {some(twice, 3)}'
        raise ValueError(f'--data: {told}. Keep one.')
    return others


def _none_found(given: Request, files: Sequence[Path]) -> str:
    """Return a sentence about what the folder holds, for a folder without label files."""
    if files:
        return f'no label file. {" ".join(json_files.lacks(path, json_files.load(path)) for path in files[:2])}'
    root, stems = given.root, {one.stem for one in given.pictures}
    near = [path for path in folders.files_below(root, ('.txt', '.xml')) if path.stem in stems]
    zipped = [path.name for path in folders.files_below(root, folders.ARCHIVES)]
    told = [f'{some(zipped, 2)}: unpack it first.'] if zipped else []
    if any('label' in path.name or 'mask' in path.name for path in root.iterdir()):
        told += ['Label images are for networks of mmseg::.']
    if near:
        first = near[0].read_text(encoding='utf-8', errors='replace').strip().partition('\n')[0]
        told.append(f'{near[0]} begins with {first[:40]!r}: that is no row of YOLO, and no xml of VOC.')
    return ' '.join(['no label file.', *told])


def _lose(reading: Reading, reason: str, pictures: Sequence[Labelled]) -> None:
    for one in pictures:
        reading.dropped[reason] += [str(one.picture)] * len(one.objects)


# Parts


def _told_parts(reading: Reading, wish: Wish) -> Parts:
    """Return the pictures of the parts that the labels or the folders tell, or all under ``''``."""
    parts: dict[str | None, list[Labelled]] = {}
    for one in reading.pictures:
        parts.setdefault(one.part if wish == Wish() or reading.origins else None, []).append(one)
    outside = parts.pop('', [])
    folders.assign_rest_to_train(parts)
    if reading.origins and len(parts) > 1:
        told = ', '.join(map(str, parts))
        if wish != Wish():
            raise ValueError(f'--split: the files for {told} are a split. Leave the option out.')
        if 'train' not in parts:
            raise ValueError(f'--data {reading.source}: label files for {told}, none for train. {json_files.FORMATS}')
    elif 'train' not in parts or len(parts.keys() - {None}) < 2:
        parts = {None: [one for one in reading.pictures if one.part != '']}
    else:
        outside += parts.pop(None, [])
    _lose(reading, 'are in pictures of no part', outside)
    return {part or '': own for part, own in parts.items()}


def _divided(
    pictures: Sequence[Labelled], names: Sequence[str], listed: Mapping[str, Sequence[Path]], wish: Wish, source: Path
) -> Parts:
    """Divide the pictures as lists say, or by chance."""
    chosen = {part: {*own} for part, own in listed.items()}
    if len(listed) < 2:
        every = {str(one.picture): one for one in pictures if not listed or one.picture in chosen['train']}
        learned = {path: {each['name'] for each in one.objects if _counts(each, names)} for path, one in every.items()}
        bare = {path for path, objects in learned.items() if not objects}
        drawn = two_parts([*every], source, wish.share, learned.__getitem__, bare)
        chosen = {part: {*map(Path, paths)} for part, paths in zip(('train', 'val'), drawn, strict=True)}
    return {part: [one for one in pictures if one.picture in own] for part, own in chosen.items()}


def _split(part: str, pictures: Sequence[Labelled], reading: Reading, root: Path, kept: bool) -> Split:
    file, folder = reading.origins.get(pictures[0].part, (reading.source, root))
    if not reading.origins:
        folder = Path(os.path.commonpath([one.picture.parent for one in pictures]))
    place = '' if folder == root else f'{os.path.relpath(folder, root)}/'
    files = tuple(one.name(folder) for one in pictures)
    if kept:
        return Split(place, str(file.relative_to(root)), len(files), files)
    content = json.dumps(reading.content(folder, pictures))
    return Split(place, Template(f'{{{{ fileDirname }}}}/{part}.json'), len(files), files, content)


# Classes and counts


def _counts(one: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Tell whether an object is learned and scored."""
    return one['name'] in names and not one['iscrowd']


def _check_boxes(reading: Reading, parts: Parts, names: Sequence[str]) -> None:
    """Refuse a part without a box of the classes. Those of test sets whose labels are kept secret have none."""
    for part, pictures in parts.items():
        boxes = [each for one in pictures for each in one.objects if each['name'] in names]
        if not any(_counts(each, names) for each in boxes):
            what = f'all boxes of {some(names)} have iscrowd=1' if boxes else f'no box of {some(names)}'
            told = f'{what}{f" for {part}" if part else ""}, so it measures nothing'
            path = reading.file_of(pictures[0].part)
            ways = (
                ', or take this part out'
                if len(reading.origins) > 1
                else ', take this part out, or divide anew (--split)'
            )
            if boxes and reading.form == 'COCO':  # CVAT's brush
                ways += '. CVAT marks what its brush drew so: set iscrowd to 0 in the file'
            raise ValueError(f'--data: {path}: {told}. Add boxes{ways}.')


def _classes(reading: Reading, pictures: Sequence[Labelled], given: Sequence[str]) -> tuple[str, ...]:
    """Return the names with boxes in training, in the order of the labels, or those of them that are given."""
    every, used = reading.names, {each['name'] for one in pictures for each in one.objects}
    file = reading.file_of(pictures[0].part)
    if unknown := [name for name in given if name not in every]:
        raise ValueError(
            f'--classes {some(unknown)}: no category of {reading.source}. {close_or_all(unknown[0], every)}'
        )
    chosen = tuple(name for name in every if name in used and (not given or name in given))
    if not chosen:
        why = ''.join(f'; {len(own)} annotations {reason}' for reason, own in reading.dropped.items())
        what = f'no box of {some(given or every)}' if given or every else 'no box'
        raise ValueError(f'--data: {file} has {what}: there is nothing to train with{why}.')
    if empty := [name for name in every if name not in used]:
        elsewhere = Counter(each['name'] for one in reading.pictures for each in one.objects) + reading.kinds
        gone = sum(elsewhere[name] for name in empty)
        more = f' ({gone} annotations are in other parts or left out)' if gone else ''
        reading.notes.append(f'{"WARNING: " if gone else ""}left out, no box in training: {some(empty)}{more}')
    return chosen


def _count(
    root: Path, reading: Reading, lists: Mapping[str, Path], outside: Sequence[Path], parts: Parts, names: Sequence[str]
) -> list[Count]:
    """Return what became of all files, pictures and annotations."""
    every = [one for one in folders.files_below(root, ('',)) if not one.name.lower().endswith(EXTENSIONS)]
    known = {*reading.files, *lists.values(), *(one for own in reading.skipped_files.values() for one in own)}
    stems = {one.stem for one in outside}
    other = [one for one in every if one not in known and one.stem in stems]
    other = [one for one in other if one.suffix.lower() in ('.json', '.xml') or yolo.starts_with_row(one)]
    reading.skipped_files['have the name of a picture, and are no files of this form'] = other
    rest = [one.relative_to(root) for one in every if one not in known.union(other)]
    read = len(every) - len(rest) - sum(map(len, reading.skipped_files.values()))
    listed = {os.path.realpath(one.picture) for one in reading.pictures}
    used = {os.path.realpath(one.picture) for own in parts.values() for one in own}
    free = [path for path in map(os.path.realpath, outside) if path not in listed]
    if free:
        place = shlex.quote(os.path.commonpath([os.path.dirname(path) for path in free]))
        reading.notes.append(f'--unlabelled {place} teaches on pictures without labels')
    if bare := [one.picture.name for own in parts.values() for one in own if not one.objects]:
        reading.notes.append(f'{len(bare)} pictures show no object: background alone ({some(bare, 3)})')
    left = {'have no labels in any file': free, 'are in no part or list': sorted(listed - used)}
    shown = [(one.picture.name, each) for own in parts.values() for one in own for each in one.objects]
    crowds = [picture for picture, each in shown if each['name'] in names and each['iscrowd']]
    others = [picture for picture, each in shown if each['name'] not in names]
    unused = {'of iscrowd=1, neither learned nor scored': crowds, 'of no class that is used': others}
    there = len(shown) + sum(map(len, reading.dropped.values()))
    return [
        Count('files', len(every), read, reading.skipped_files, {'not read': rest}),
        Count('pictures', len(listed) + len(free), len(used), left),
        Count('annotations', there, len(shown) - len(crowds) - len(others), reading.dropped, unused),
    ]
