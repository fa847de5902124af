"""Find the pictures, labels and classes of a data set of boxes and polygons."""

from __future__ import annotations

import itertools
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.project.counts import Count, table
from mmdistill_dense.apps.project.formats import labelme, xml_files, yolo
from mmdistill_dense.apps.project.formats.objects import Given, Labelled, Reading
from mmdistill_dense.apps.project.mending import mended
from mmdistill_dense.apps.project.picture_folders import (
    ARCHIVES,
    SAMPLED,
    SPLITS,
    Wish,
    check_folders,
    files_below,
    find_lists,
    is_label,
    look_at,
    named,
    opened,
    outside_labels,
    pictures_below,
    read_lists,
    repeated,
    size_of,
    split_of,
    two_parts,
    usual_size,
)
from mmdistill_dense.datasets.label_files import MENDED, Content, check, has_mask, lists_missing
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.literals import Template
from mmdistill_dense.utils.validate import close_or_all, size_text, some

COCO, FREE = 'COCO', 'have no labels in any file'
_LOOKED = 20  # pictures that are looked for in each folder


def folder_of(file: LabelFile, root: Path, pictures: Sequence[Path], split: str | None) -> Path:
    """Return the folder to which the file names of a label file are relative."""
    # of several that hold as many of them, one for the same split, not of label images, then the nearest one: splits
    # may reuse names
    path, names = file.path, file.names
    inside = dict.fromkeys(one.parent.relative_to(root) for one in pictures)
    above = [root / parent for one in inside for parent in (one, *one.parents)]  # up to the root
    folders = list(dict.fromkeys([path.parent, root, *above]))
    if not names:
        raise ValueError(f'--data: {path} lists no picture (images is empty).')
    looked = evenly(names, _LOOKED)

    def fits(folder: Path) -> tuple[int, bool, bool, int]:
        there, parts = sum(os.path.isfile(folder / name) for name in looked), folder.relative_to(root).parts
        return there, split_of(parts) == split, not is_label(parts), len(os.path.commonpath([folder, path]))

    best = max(folders, key=fits)
    missing = [name for name in names if not os.path.isfile(best / name)]
    if missing:
        told = f'{len(missing)} of the {len(names)} pictures of {path} are not there: {some(missing, 3)}'
        raise FileNotFoundError(f'--data: {told}; looked in {some(folders, 5)}. A file_name is a path below one.')
    return best


FORMAT = (
    'Boxes and polygons are read from json files of COCO (one for each split, with train, val or test in its name or '
    'folder, or one for all), YOLO text files, VOC xml, CVAT xml and labelme json: docs/your_labels.md. Other '
    "formats: uvx --from 'datumaro[cli]' datum convert -i DATA -if FORMAT -f coco_instances -o OUT -- --save-media"
)


def read_label_file(path: Path) -> Any:
    """Return what a json file holds, in any encoding of Unicode."""
    with named(path):
        content = json.loads(path.read_bytes())
    boxes = content.get('annotations') if isinstance(content, dict) else None
    boxed = isinstance(boxes, list) and boxes and isinstance(boxes[0], dict) and 'bbox' in boxes[0]
    if boxed and lists_missing(content):
        raise ValueError(f'--data: {lacks(path, content)} {FORMAT}')
    return content


def none_found(root: Path, files: Sequence[Path]) -> str:
    """Return a sentence about what the folder holds, for a folder without label files."""
    if files:
        return f'no label file. {" ".join(lacks(path, read_label_file(path)) for path in files[:2])}'
    zipped = [path.name for path in files_below(root, ARCHIVES)]
    told = [f'{some(zipped, 2)}: unpack it first.'] if zipped else []
    if any('label' in path.name or 'mask' in path.name for path in root.iterdir()):
        told += ['Label images are for networks of mmseg::.']
    return ' '.join(['no label file.', *told])


def lacks(path: Path, content: Any) -> str:
    """Say which lists of a label file a json file does not have."""
    if not isinstance(content, dict):
        return f'{path.name} holds a {type(content).__name__}.'
    return f'{path.name} has {some(content)}, but no list of {", ".join(lists_missing(content))}.'


def check_sizes(file: LabelFile, stored: bool) -> None:
    """Compare the sizes of pictures, ``stored`` or as EXIF turns them, with those of the labels; read some whole."""
    told = [one for one in file.content['images'] if one.get('width') and one.get('height')]
    whole = {one['file_name'] for one in evenly(told, SAMPLED)}
    for one in told:
        with opened(file.folder / one['file_name']) as picture:
            if one['file_name'] in whole:
                picture.load()
            found, written = size_of(picture, stored), (one['height'], one['width'])
        if found != written:
            said = f'{one["file_name"]} has {size_text(written)} pixels (height x width); it has {size_text(found)}'
            raise ValueError(f'--data: {file.path} says that {said}, so the boxes do not fit. Correct the label file.')


def wrong_masks(file: LabelFile) -> Iterator[str]:
    """Yield a sentence for each mask of another size than its picture: mmdet would put its pixels elsewhere."""
    pictures = {one['id']: one for one in file.content['images']}
    for one in file.content['annotations']:
        shape, picture = one.get('segmentation'), pictures[one['image_id']]
        size = picture['height'], picture['width']
        if isinstance(shape, dict) and has_mask(one) and tuple(shape['size']) != size:
            name, own = file.folder / picture['file_name'], size_text(shape['size'])
            yield f'{name} has {size_text(size)} pixels, a mask of it {own}.'


@dataclass
class LabelFile:
    """A label file, or what a reader made of labels in another form."""

    path: Path
    content: Content
    folder: Path  # to which the names of its pictures are relative
    changed: bool  # whether the content must be written

    @property
    def names(self) -> list[str]:
        return [one['file_name'] for one in self.content['images']]

    def mend(self, stored: bool, drawn: bool, notes: list[str], lost: dict[str, list[str]]) -> None:
        """Hold what training and metric read in its place."""

        def size(picture: str) -> tuple[int, int]:
            with opened(self.folder / picture) as image:
                return size_of(image, stored)

        with named(self.path):
            before, (self.content, told, left) = self.content, mended(self.content, size, drawn)
        if self.path.suffix == '.json':
            with self.path.open('rb') as file:
                if json.detect_encoding(file.read(4)) != 'utf-8':
                    told.append('it begins with a byte order mark, with which pycocotools cannot read it')
                    self.changed = True
        for note in told:
            warned = 'left out' in note or 'is wrong' in note
            notes.append(f'{"WARNING: " if warned else ""}{self.path.name}: {note}')
        for reason, own in left.items():
            lost[reason] += own
        self.changed = self.changed or self.content is not before

    @property
    def kinds(self) -> Counter[str]:
        """How many boxes each category has that has some, in the order of the file."""
        numbers = Counter(one['category_id'] for one in self.content['annotations'])
        names = ((one['name'], numbers[one['id']]) for one in self.content['categories'])
        return Counter({name: count for name, count in names if count})

    def boxes(self, names: Sequence[str]) -> list[Mapping[str, Any]]:
        numbers = {one['id'] for one in self.content['categories'] if one['name'] in names}
        return [one for one in self.content['annotations'] if one['category_id'] in numbers]


Files = dict[str | None, LabelFile]  # by split


@dataclass(frozen=True)
class BoxSplit:
    """Pictures with boxes: a label file and a folder, relative to the root; ``content`` of a file that is new."""

    labels: str
    pictures: str
    files: tuple[str, ...]  # names in the folder
    content: str = ''

    @property
    def count(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class BoxData:
    root: Path
    splits: dict[str, BoxSplit]
    classes: tuple[str, ...]
    masks: bool  # whether every object has one
    size: tuple[int, int]  # usual height and width of a picture
    notes: list[str] = field(default_factory=list)  # what was decided, for the user
    stored: bool = False  # whether pictures are read as they are stored, whatever their EXIF orientation


class NoLabels(FileNotFoundError):
    """A folder without a label file of a known format."""


def find_box_data(
    given: Path, classes: Sequence[str] = (), exif: str | None = None, wish: Wish | None = None, task: str = 'det'
) -> BoxData:
    """Find out what the folder or the json file of ``--data`` holds, of the categories of ``--classes``."""
    with named(given):
        return _found(given.expanduser().resolve(), classes, exif, wish or Wish(), task)


def _found(given: Path, classes: Sequence[str], exif: str | None, wish: Wish, task: str) -> BoxData:
    root, notes = given, list[str]()
    if given.suffix == '.json' and given.is_file():  # `annotations` holds no pictures
        root = given.parent if files_below(given.parent, EXTENSIONS) else given.parent.parent
    pictures = pictures_below(root)
    files = [given] if given.is_file() else sorted(files_below(root, ('.json',)))
    found, reading, others = _by_split(root, files, notes, predictions=given.is_file())
    if not found and (read := _read_objects(Given(root, pictures, classes, exif, wish != Wish(), task), others)):
        read.lost_files |= reading.lost_files
        reading = read
        found = _of_parts(reading, wish)
        notes += reading.notes
    elif not found:
        found, reading, _ = _by_split(root, files, notes, predictions=True)
    if not found:
        raise NoLabels(f'--data {root}: {none_found(root, files)} {FORMAT}')
    own_form = reading.form == COCO
    for name, one in found.items():
        with named(one.path):
            check(one.content, MENDED)
        if own_form:
            one.folder = folder_of(one, root, pictures, name)
    drawn = {
        one.folder / image['file_name']: (image.get('height'), image.get('width'))
        for one in found.values()
        for image in one.content['images']
    }
    stored = look_at(list(drawn), drawn.__getitem__, exif, notes)
    there = sum(len(one.content['annotations']) for one in found.values()) + sum(map(len, reading.lost.values()))
    held = reading.kinds + sum((one.kinds for one in found.values()), Counter[str]())
    for one in found.values():
        check_sizes(one, stored)
        one.mend(stored, task == 'seg', notes, reading.lost)
    wrong = [sentence for one in found.values() for sentence in itertools.islice(wrong_masks(one), 1)]
    if wrong and task == 'seg':
        raise ValueError(f'--data: {wrong[0]} Draw it again.')
    notes += [f'WARNING: {one} So the data have no masks for networks that predict them' for one in wrong]
    first = found.get('train') or next(iter(found.values()))
    names = _classes(first, classes, held, reading.lost, notes)
    for one in found.values():  # labels are numbered by the first
        categories = [category['name'] for category in one.content['categories']]
        if [name for name in categories if name in names] != list(names):
            told = f'lists the categories {some(categories, 20)}; the classes are {some(names, 20)}'
            raise ValueError(f'--data: {one.path} {told}. Every file must list all of them, in the same order.')
    outside = outside_labels(root, pictures)
    listed = {os.path.realpath(one.folder / name) for one in found.values() for name in one.names}
    listed |= {os.path.realpath(one.picture) for one in reading.pictures}
    lists, where = dict[str, Path](), 'part'
    if 'train' in found and len(found) > 1:
        if wish != Wish():
            raise ValueError(f'--split: the files for {", ".join(map(str, found))} are a split. Leave the option out.')
        changed = [f'{name}.json' for name, one in found.items() if one.changed]
        if changed and task == 'det':
            with_changes = ', with these changes' if own_form else ''
            notes.append(f'written for training and metric{with_changes}: {", ".join(changed)}')
    elif len(found) == 1:
        _check_boxes(found, names)
        lists, where = find_lists(root, task, wish), 'list'
        divided = _divided(first, names, _listed(lists, root, first, outside), wish)
        inside = {name for one in divided.values() for name in one.names}
        pictures_by_id = {one['id']: one['file_name'] for one in first.content['images']}
        shown = [pictures_by_id[one['image_id']] for one in first.content['annotations']]
        reading.lost['are in pictures of no list'] += [name for name in shown if name not in inside]
        found = Files(divided.items())
        if lists:
            shares = ', '.join(f'{len(one.names)} {part}' for part, one in divided.items())
            notes.append(f'split of {some(map(str, lists.values()))}: {shares}')
        else:
            train, val = (len(divided[part].names) for part in ('train', 'val'))
            written = ' (train.json, val.json)' if task == 'det' else ''
            notes.append(f'one label file: {train} of its pictures train, {val} validate{written}')
    else:
        raise ValueError(f'--data {given}: label files for {", ".join(map(str, found))}, none for train. {FORMAT}')
    _check_boxes(found, names)
    if unseen := [name for name in names if not any(not box['iscrowd'] for box in found['train'].boxes([name]))]:
        notes.append(f'WARNING: no box in training but those of iscrowd=1, so nobody can learn it: {some(unseen)}')
    splits = {name: _split(name, found[name], root) for name in SPLITS if name in found}
    if 'val' not in splits:
        notes.append('no label file for val: that for test validates')
        splits['val'] = splits['test']
    counted = [
        _count_files(root, reading, lists),
        _count_pictures(outside, listed, found, where),
        _count_objects(there, reading.lost, found, names),
    ]
    notes[:0] = table(f'{reading.form} ({reading.source})', counted)
    if bare := sum(
        len({*one.names}) - len({box['image_id'] for box in one.content['annotations']}) for one in found.values()
    ):
        notes.append(f'{bare} pictures show no object: background alone')
    if free := counted[1].left_out[FREE]:
        place = shlex.quote(os.path.commonpath([os.path.dirname(str(path)) for path in free]))
        notes.append(f'--unlabelled {place} teaches on pictures without labels')
    size = usual_size([(one['height'], one['width']) for one in first.content['images']])
    masks = not wrong and all(has_mask(box) for one in found.values() for box in one.content['annotations'])
    return BoxData(root, splits, names, masks, size, notes, stored)


def _count_files(root: Path, reading: Reading, lists: Mapping[str, Path]) -> Count:
    every = dict.fromkeys(one for one in files_below(root, ('',)) if not one.name.lower().endswith(EXTENSIONS))
    read = {*reading.files, *lists.values()}
    left = {one for own in reading.lost_files.values() for one in own}
    rest = [one.relative_to(root) for one in every if one not in read and one not in left]
    used = len(every) - len(rest) - len(left)
    return Count('files', len(every), used, reading.lost_files, {'not read': rest})


def _count_pictures(outside: Sequence[Path], listed: set[str], found: Files, where: str) -> Count:
    used = {os.path.realpath(one.folder / name) for one in found.values() for name in one.names}
    free = [path for path in map(os.path.realpath, outside) if path not in listed]
    left = {FREE: free, f'are in no {where}': sorted(listed - used)}
    return Count('pictures', len(listed) + len(free), len(used), left)


def _count_objects(there: int, lost: Mapping[str, list[str]], found: Files, names: Sequence[str]) -> Count:
    used, crowds, others = 0, list[str](), list[str]()
    for one in found.values():
        kinds = {kind['id']: kind['name'] for kind in one.content['categories']}
        pictures = {image['id']: image['file_name'] for image in one.content['images']}
        for box in one.content['annotations']:
            if kinds[box['category_id']] not in names:
                others.append(kinds[box['category_id']])
            elif box['iscrowd']:
                crowds.append(pictures[box['image_id']])
            else:
                used += 1
    unused = {'of iscrowd=1, neither learned nor scored': crowds, 'of no class that is used': others}
    return Count('annotations', there, used, lost, unused)


def _read_objects(given: Given, shapes: Mapping[Path, Any]) -> Reading | None:
    """Read the first format that the folder holds; ``shapes``: contents of json files of labelme."""
    if shapes:
        return labelme.read(given, shapes)
    return next((form.read(given, files) for form in (yolo, xml_files) if (files := form.recognise(given))), None)


def _of_parts(reading: Reading, wish: Wish) -> Files:
    """Return contents of the parts that the labels or the folders tell, or one content of all pictures."""
    if twice := repeated(one.picture for one in reading.pictures):
        names = some(twice, 3)
        raise ValueError(f'--data: {len(twice)} pictures have labels twice in {reading.source}: {names}. Keep one.')
    parts: dict[str | None, list[Labelled]] = {}
    for one in reading.pictures:
        parts.setdefault(None if wish != Wish() else one.part, []).append(one)
    outside = parts.pop('', [])
    if 'train' not in parts or len(parts.keys() - {None}) < 2:
        parts = {None: [one for one in reading.pictures if one.part != '']}
    else:
        outside += parts.pop(None, [])
    for one in outside:
        reading.lost['are in pictures of no part'] += [str(one.picture)] * len(one.objects)
    found: Files = {}
    for part, own in parts.items():
        folder = Path(os.path.commonpath([one.picture.parent for one in own]))
        found[part] = LabelFile(reading.source, reading.content(folder, own), folder, True)
    return found


def _listed(lists: Mapping[str, Path], root: Path, file: LabelFile, pictures: Sequence[Path]) -> dict[str, set[str]]:
    """Return the names of pictures that the lists of a split name, by part."""
    if not lists:
        return {}
    names = {file.folder / name: name for name in file.names}
    found = read_lists(lists, root, list({*names, *pictures}))
    for part, own in found.items():
        if bare := [picture for picture in own if picture not in names]:
            told = f'{len(bare)} of the {len(own)} pictures in {lists[part]} have no labels: {some(bare, 3)}'
            raise FileNotFoundError(f'--data: {told}. Add them, or take the lines out.')
    check_folders(found, root, lists)
    return {part: {names[picture] for picture in own} for part, own in found.items()}


def _by_split(
    root: Path, files: Sequence[Path], notes: list[str], predictions: bool
) -> tuple[Files, Reading, dict[Path, Any]]:
    """Return the label file of each split, and the contents of labelme's files; of ``predictions`` too, or not."""
    found, reading, others = Files(), Reading(COCO, root), dict[Path, Any]()
    lost = reading.lost_files
    for path in files:
        content = read_label_file(path)
        if labelme.is_labelme(content):
            others[path] = {key: value for key, value in content.items() if key != 'imageData'}  # the picture itself
            continue
        split = split_of([*path.relative_to(root).parts[:-1], path.stem])
        if lacking := lists_missing(content):
            if isinstance(content, dict) and 'images' in content:
                lost[f'have images, but no list of {", ".join(lacking)}'].append(path)
            continue
        if any('score' in one for one in content['annotations'] if isinstance(one, dict)):
            if not predictions:
                lost['have annotations with a score, as predictions have'].append(path)
                continue
            notes.append(f'WARNING: {path}: its annotations have a score, as predictions have')
        if split in found:
            known = found[split].path
            better = [one for one in (known, path) if 'instances' in one.name]
            if len(better) != 1:
                told = f'{known.name} and {path.name} are both for {split or "no split"}'
                raise ValueError(f'--data {root}: {told}. Keep one there, or give the file itself as --data.')
            lost['are for the part of another file'].append(known if better[0] == path else path)
            if better[0] == known:
                continue
        found[split] = LabelFile(path, content, root, False)
    if len(found) > 1 and (left := found.pop(None, None)):
        lost['say train, val or test neither by name nor by folder'].append(left.path)
    reading.files = [one.path for one in found.values()]
    return found, reading, others


def _split(name: str, file: LabelFile, root: Path) -> BoxSplit:
    pictures = '' if file.folder == root else f'{os.path.relpath(file.folder, root)}/'
    files = tuple(file.names)
    if not file.changed:
        return BoxSplit(str(file.path.relative_to(root)), pictures, files)
    return BoxSplit(Template(f'{{{{ fileDirname }}}}/{name}.json'), pictures, files, json.dumps(file.content))


def _check_boxes(found: Files, names: Sequence[str]) -> None:
    """Refuse a label file without a box of the classes. Those of test sets whose labels are kept secret have none."""
    for name, one in found.items():
        boxes = one.boxes(names)
        if all(box['iscrowd'] for box in boxes):
            what = f'all boxes of {some(names)} have iscrowd=1' if boxes else f'no box of {some(names)}'
            told = f'{what}{f" for {name}" if name else ""}, so it measures nothing'
            raise ValueError(f'--data: {one.path}: {told}. Add boxes, take this part out, or divide anew (--split).')


def _classes(
    file: LabelFile, given: Sequence[str], held: Counter[str], lost: Mapping[str, list[str]], notes: list[str]
) -> tuple[str, ...]:
    """Return the names of the categories with boxes, in the order of the file, or those of them that are given."""
    every, used = [one['name'] for one in file.content['categories']], list(file.kinds)
    if unknown := [name for name in given if name not in every]:
        raise ValueError(f'--classes {some(unknown)}: no category of {file.path}. {close_or_all(unknown[0], every)}')
    if repeated(used):
        raise ValueError(f'--data: two categories of {file.path} have one name: {some(used, 20)}. Rename one.')
    chosen = tuple(name for name in used if not given or name in given)
    if not chosen:
        why = ''.join(f'; {len(own)} annotations {reason}' for reason, own in lost.items())
        what = f'no box of {some(given or every)}' if given or every else 'no box'
        raise ValueError(f'--data: {file.path} has {what}: there is nothing to train with{why}.')
    if empty := [name for name in every if name not in used]:
        gone = sum(held[name] for name in empty)
        more = f' ({gone} annotations are in other parts or left out)' if gone else ''
        notes.append(f'{"WARNING: " if gone else ""}left out, no box in training: {some(empty)}{more}')
    return chosen


def _divided(file: LabelFile, names: Sequence[str], listed: Mapping[str, set[str]], wish: Wish) -> dict[str, LabelFile]:
    """Divide the pictures as lists say, or by chance; the parts are written beside the configs."""
    content, found = file.content, dict[str, LabelFile]()
    if len(listed) < 2:
        with_box = {one['image_id'] for one in file.boxes(names) if not one['iscrowd']}
        every = [one for one in content['images'] if one['file_name'] in listed.get('train', {one['file_name']})]
        boxed = {one['file_name'] for one in every if one['id'] in with_box}
        bare = list({one['file_name'] for one in every} - boxed)
        parts = two_parts(list(boxed), file.path, wish.share)  # pictures with boxes and others are divided alike
        rest = two_parts(bare, file.path, wish.share) if len(bare) > 1 else (bare, list[str]())
        listed = {name: {*own, *more} for name, own, more in zip(('train', 'val'), parts, rest, strict=True)}
    for name, files in listed.items():
        kept = [one for one in content['images'] if one['file_name'] in files]
        numbers = {one['id'] for one in kept}
        boxes = [one for one in content['annotations'] if one['image_id'] in numbers]
        part = {'images': kept, 'annotations': boxes, 'categories': content['categories']}
        found[name] = replace(file, content=part, changed=True)
    return found
