"""Find the pictures, labels and classes of a data set of boxes and polygons."""

from __future__ import annotations

import itertools
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.project.formats import labelme, xml_files, yolo
from mmdistill_dense.apps.project.formats.objects import Given, Labelled, Reading
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
from mmdistill_dense.datasets.label_files import MENDED, Content, check, has_mask, lists_missing, mended
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.literals import Template
from mmdistill_dense.utils.validate import close_or_all, size_text, some

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


def unlisted(every: Sequence[Path], found: Files) -> Iterator[str]:
    """Yield a note if no label file lists some of the pictures."""
    listed = {os.path.realpath(one.folder / name) for one in found.values() for name in one.names}
    if free := [path for path in every if os.path.realpath(path) not in listed]:
        place = shlex.quote(os.path.commonpath([path.parent for path in free]))
        said = f'{len(free)} of {len(every)} pictures have no labels in any file ({some(free, 1)})'
        yield f'{said}. They are in no split; --unlabelled {place} teaches on them'


FORMAT = (
    'Boxes and polygons are read from json files of COCO (one for each split, with train, val or test in its name or '
    'folder, or one for all), YOLO text files, VOC xml, CVAT xml and labelme json: docs/your_labels.md. Other '
    "formats: uvx --from 'datumaro[cli]' datum convert -i DATA -if FORMAT -f coco_instances -o OUT -- --save-media"
)


def read_label_file(path: Path) -> Any:
    """Return what a json file holds, in any encoding of Unicode."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'--data: {path} is damaged, or no json file ({error}). Repair it, or take it out.') from error
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
    """Compare the sizes of some pictures, ``stored`` or as EXIF turns them, with those in the label file."""
    told = [one for one in file.content['images'] if one.get('width') and one.get('height')]
    for one in evenly(told, SAMPLED):
        with opened(file.folder / one['file_name']) as picture:
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

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the path before errors."""
        try:
            yield
        except ValueError as error:
            text = str(error)
            raise ValueError(text if text.startswith('--data') else f'--data: {self.path}: {error}') from error

    def mend(self, stored: bool, notes: list[str]) -> None:
        """Hold what training and metric read in its place."""

        def size(picture: str) -> tuple[int, int]:
            with opened(self.folder / picture) as image:
                return size_of(image, stored)

        with self.named():
            self.content, told = mended(self.content, size)
        if self.path.suffix == '.json':
            with self.path.open('rb') as file:
                if json.detect_encoding(file.read(4)) != 'utf-8':
                    told.append('it begins with a byte order mark, with which pycocotools cannot read it')
        notes += [f'{"WARNING: " if "left out" in note else ""}{self.path.name}: {note}' for note in told]
        self.changed = self.changed or bool(told)

    @property
    def used(self) -> list[str]:
        """The names of the categories with boxes, in the order of the file."""
        numbers = {one['category_id'] for one in self.content['annotations']}
        return [one['name'] for one in self.content['categories'] if one['id'] in numbers]

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
    given, wish = given.expanduser().resolve(), wish or Wish()
    root = given
    if given.suffix == '.json' and given.is_file():  # `annotations` holds no pictures
        root = given.parent if files_below(given.parent, EXTENSIONS) else given.parent.parent
    pictures, notes = pictures_below(root), list[str]()
    files = [given] if given.is_file() else sorted(files_below(root, ('.json',)))
    passed_over = list[str]()
    found, others = _by_split(root, files, passed_over, predictions=given.is_file())
    reading = None if found else _read_objects(Given(root, pictures, classes, exif, wish != Wish(), task), others)
    if not found and not reading:
        passed_over.clear()
        found, _ = _by_split(root, files, passed_over, predictions=True)
    notes += passed_over
    if reading:
        found = _of_parts(reading, wish, notes)
    if not found:
        raise NoLabels(f'--data {root}: {none_found(root, files)} {FORMAT}')
    for name, one in found.items():
        with one.named():
            check(one.content, MENDED)
        if not reading:
            one.folder = folder_of(one, root, pictures, name)
    drawn = {
        one.folder / image['file_name']: (image.get('height'), image.get('width'))
        for one in found.values()
        for image in one.content['images']
    }
    stored = look_at(list(drawn), drawn.__getitem__, exif, notes)
    for one in found.values():
        check_sizes(one, stored)
        one.mend(stored, notes)
    wrong = [sentence for one in found.values() for sentence in itertools.islice(wrong_masks(one), 1)]
    if wrong and task == 'seg':
        raise ValueError(f'--data: {wrong[0]} Draw it again.')
    notes += [f'WARNING: {one} So the data have no masks for networks that predict them' for one in wrong]
    first = found.get('train') or next(iter(found.values()))
    names = _classes(first, [one for one in found.values() if one is not first], classes, notes)
    for one in found.values():  # labels are numbered by the first
        there = [category['name'] for category in one.content['categories']]
        if [name for name in there if name in names] != list(names):
            told = f'lists the categories {some(there, 20)}; the classes are {some(names, 20)}'
            raise ValueError(f'--data: {one.path} {told}. Every file must list all of them, in the same order.')
    outside = outside_labels(root, pictures)
    notes += unlisted(outside, found)
    if 'train' in found and len(found) > 1:
        if wish != Wish():
            raise ValueError(f'--split: the files for {", ".join(map(str, found))} are a split. Leave the option out.')
        splits = {name: _split(name, found[name], root) for name in SPLITS if name in found}
        changed = [f'{name}.json' for name, one in found.items() if one.changed]
        if changed and task == 'det':
            with_changes = '' if reading else ', with these changes'
            notes.append(f'written for training and metric{with_changes}: {", ".join(changed)}')
    elif len(found) == 1:
        lists = find_lists(root, task, wish)
        listed = _listed(lists, root, first, outside)
        divided = _divided(first, names, listed, wish)
        splits = {part: _split(part, one, root) for part, one in divided.items()}
        found = Files(divided.items())
        if unseen := [name for name in names if name not in divided['train'].used]:
            notes.append(f'WARNING: no box in training, so nobody can learn it: {some(unseen)}')
        if lists:
            counts = ', '.join(f'{split.count} {part}' for part, split in splits.items())
            left = len(first.names) - sum(split.count for split in splits.values())
            told = f'split of {some(map(str, lists.values()))}: {counts}' + (f'; {left} in no list' if left else '')
        else:
            told = f'one label file: {splits["train"].count} of its pictures train, {splits["val"].count} validate' + (
                ' (train.json, val.json)' if task == 'det' else ''
            )
        notes.append(told)
    else:
        raise ValueError(f'--data {given}: label files for {", ".join(map(str, found))}, none for train. {FORMAT}')
    if 'val' not in splits:
        notes.append('no label file for val: that for test validates')
        splits['val'] = splits['test']
    _check_boxes(found, names)
    size = usual_size([(one['height'], one['width']) for one in first.content['images']])
    masks = not wrong and all(has_mask(box) for one in found.values() for box in one.content['annotations'])
    return BoxData(root, splits, names, masks, size, notes, stored)


def _read_objects(given: Given, shapes: Mapping[Path, Any]) -> Reading | None:
    """Read the first format that the folder holds; ``shapes``: contents of json files of labelme."""
    if shapes:
        return labelme.read(given, shapes)
    return next((form.read(given, files) for form in (yolo, xml_files) if (files := form.recognise(given))), None)


def _of_parts(reading: Reading, wish: Wish, notes: list[str]) -> Files:
    """Return contents of the parts that the labels or the folders tell, or one content of all pictures."""
    notes += reading.told
    if twice := repeated(one.picture for one in reading.pictures):
        names = some(twice, 3)
        raise ValueError(f'--data: {len(twice)} pictures have labels twice in {reading.source}: {names}. Keep one.')
    parts: dict[str | None, list[Labelled]] = {}
    for one in reading.pictures:
        parts.setdefault(None if wish != Wish() else one.part, []).append(one)
    if 'train' not in parts or len(parts.keys() - {None}) < 2:
        parts = {None: reading.pictures}
    elif left := parts.pop(None, []):
        notes.append(f'WARNING: {len(left)} labelled pictures lie in no folder of a part: left out ({left[0].picture})')
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


def _by_split(root: Path, files: Sequence[Path], notes: list[str], predictions: bool) -> tuple[Files, dict[Path, Any]]:
    """Return the label file of each split, and the contents of labelme's files; of ``predictions`` too, or not."""
    found: Files = {}
    passed, others = [], {}
    for path in files:
        content = read_label_file(path)
        if labelme.is_labelme(content):
            others[path] = {key: value for key, value in content.items() if key != 'imageData'}  # the picture itself
            continue
        split = split_of([*path.relative_to(root).parts[:-1], path.stem])
        if lists_missing(content):
            if isinstance(content, dict) and 'images' in content:
                passed.append((split, lacks(path, content)))
            continue
        if any('score' in one for one in content['annotations'] if isinstance(one, dict)):
            passing = '' if predictions else 'passed over: '
            notes.append(f'WARNING: {passing}{path}: its annotations have a score, as predictions have')
            if passing:
                continue
        if split in found:
            known = found[split].path
            better = [one for one in (known, path) if 'instances' in one.name]
            if len(better) != 1:
                told = f'{known.name} and {path.name} are both for {split or "no split"}'
                raise ValueError(f'--data {root}: {told}. Keep one there, or give the file itself as --data.')
            if better[0] == known:
                continue
        found[split] = LabelFile(path, content, root, False)
    if len(found) > 1 and (left := found.pop(None, None)):
        notes.append(f'WARNING: passed over: {left.path}: neither its name nor its folder says train, val or test')
    notes += [f'WARNING: passed over: {lacking}' for split, lacking in passed if found and split not in found]
    return found, others


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
            told = f'{what} for {name}, so it measures nothing'
            raise ValueError(f'--data: {one.path}: {told}. Add boxes, take this part out, or divide anew (--split).')


def _classes(file: LabelFile, others: Sequence[LabelFile], given: Sequence[str], notes: list[str]) -> tuple[str, ...]:
    """Return the names of the categories with boxes, in the order of the file, or those of them that are given."""
    every, used = [one['name'] for one in file.content['categories']], file.used
    if unknown := [name for name in given if name not in every]:
        raise ValueError(f'--classes {some(unknown)}: no category of {file.path}. {close_or_all(unknown[0], every)}')
    if repeated(used):
        raise ValueError(f'--data: two categories of {file.path} have one name: {some(used, 20)}. Rename one.')
    chosen = tuple(name for name in used if not given or name in given)
    if not chosen:
        raise ValueError(f'--data: {file.path} has no box of {some(given or every)}: there is nothing to train with.')
    if empty := [name for name in every if name not in used]:
        lost = sum(len(one.boxes(empty)) for one in others)
        elsewhere = f' ({lost} elsewhere)' if lost else ''
        notes.append(f'{"WARNING: " if lost else ""}left out, no box in training: {some(empty)}{elsewhere}')
    return chosen


def _divided(file: LabelFile, names: Sequence[str], listed: Mapping[str, set[str]], wish: Wish) -> dict[str, LabelFile]:
    """Divide the pictures as lists say, or by chance; the parts are written beside the configs."""
    content, found = file.content, dict[str, LabelFile]()
    if len(listed) < 2:
        with_box = {one['image_id'] for one in file.boxes(names) if not one['iscrowd']}
        every = [one for one in content['images'] if one['file_name'] in listed.get('train', {one['file_name']})]
        boxed = {one['file_name'] for one in every if one['id'] in with_box}
        bare = list({one['file_name'] for one in every} - boxed)
        parts = two_parts(list(boxed), file.path, wish.part)  # pictures with boxes and others are divided alike
        rest = two_parts(bare, file.path, wish.part) if len(bare) > 1 else (bare, list[str]())
        listed = {name: {*own, *more} for name, own, more in zip(('train', 'val'), parts, rest, strict=True)}
    for name, files in listed.items():
        kept = [one for one in content['images'] if one['file_name'] in files]
        numbers = {one['id'] for one in kept}
        boxes = [one for one in content['annotations'] if one['image_id'] in numbers]
        part = {'images': kept, 'annotations': boxes, 'categories': content['categories']}
        found[name] = replace(file, content=part, changed=True)
    return found
