"""Labels in json: COCO's, one file for each part or one for all, and labelme's, one a picture with shapes of points."""

from __future__ import annotations

import base64
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmdistill_dense.apps.project import picture_folders as folders
from mmdistill_dense.apps.project.formats import objects as common
from mmdistill_dense.apps.project.formats.objects import Entry, Given, Labelled, Object, Reading, Shape
from mmdistill_dense.datasets.label_files import MENDED, check, lists_missing
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.validate import some

_KINDS = ('polygon', 'rectangle', 'circle', 'mask', 'oriented_rectangle', 'rotation')  # the last of X-AnyLabeling
NAMES = ('labels.txt', 'classes.txt')
_IGNORED, _BACKGROUND = '__ignore__', '_background_'  # of labelme's own labels.txt
_NO_CLASSES: Mapping[str, Object] = {_IGNORED: {'iscrowd': 1}, _BACKGROUND: {'name': 'background'}}


def read_labelme(given: Given, contents: Mapping[Path, Any]) -> Reading:
    """Read the contents of files by their paths. Shapes of one ``group_id`` and label are one object.

    For label images they stay apart, because each covers those before it. Two labels are no classes: what is drawn as
    ``__ignore__`` is ignored, ``_background_`` is the background.
    """
    found = Reading('labelme json', next(iter(contents)).parent, files=[*contents])
    found.classes = [name for name in found.add_names(given.root, NAMES) if name not in _NO_CLASSES]

    def shapes(path: Path) -> Iterator[Shape]:
        listed = contents[path].get('shapes')
        if not isinstance(listed, list):
            raise ValueError(f'shapes is {listed!r:.60}, no list. Take the file out, or label its picture.')
        for place, one in enumerate(listed):
            where = f'{path}: shapes[{place}]'
            if not isinstance(one, dict):
                raise ValueError(f'--data: {where} is {one!r:.60}, no dict of label and points. Take it out.')
            name = common.class_name(where, one.get('label'))
            group = None if given.task == 'seg' else one.get('group_id')
            if name in _NO_CLASSES and given.task == 'det':
                found.lost[f'are shapes called {name}'].append(where)
                continue
            kind, marks = str(one.get('shape_type') or 'polygon'), _NO_CLASSES.get(name, {})
            where += f' ({name or kind})'
            yield Shape(where, name, kind, one.get('points'), partial(_pixels, one), marks, group)

    entries = []
    for path, one in contents.items():
        words = [str(one.get('imagePath') or path.name).replace('\\', '/'), path.stem]
        size = {'height': one.get('imageHeight'), 'width': one.get('imageWidth')}
        entries.append(Entry(path, str(path), words, size, shapes(path)))
    found.add(given, 'json files of labelme', entries, _KINDS)
    known = next((name for name in found.names if name != _IGNORED), _IGNORED)
    for drawn in (drawn for one in found.pictures for drawn in one.objects if drawn['name'] == _IGNORED):
        drawn['name'] = known  # a crowd is ignored, of whichever class
    return found


def _pixels(shape: Mapping[str, Any]) -> np.ndarray:
    """Return a mask, which is a PNG of the box between two points."""
    if (pixels := np.asarray(Image.open(io.BytesIO(base64.b64decode(shape['mask']))))).ndim != 2:
        raise ValueError('its mask has colours, and not one channel. Draw it again.')
    return pixels > 0


FORMATS = (
    'Boxes and polygons are read from json files of COCO (one for each split, with train, val or test in its name or '
    'folder, or one for all), YOLO text files, VOC xml and labelme json: docs/your_labels.md. Other '
    "formats: uvx --from 'datumaro[cli]' datum convert -i DATA -if FORMAT -f coco_instances -o OUT -- --save-media"
)
_LOOKED = 20  # pictures that are looked for in each folder


def load(path: Path) -> Any:
    """Return what a json file holds, in any encoding of Unicode."""
    with folders.named(path):
        content = json.loads(path.read_bytes())
    boxes = content.get('annotations') if isinstance(content, dict) else None
    boxed = isinstance(boxes, list) and boxes and isinstance(boxes[0], dict) and 'bbox' in boxes[0]
    if boxed and lists_missing(content):
        raise ValueError(f'--data: {lacks(path, content)} {FORMATS}')
    return content


def lacks(path: Path, content: Any) -> str:
    """Say which lists of a label file a json file does not have."""
    if not isinstance(content, dict):
        return f'{path.name} holds a {type(content).__name__}.'
    return f'{path.name} has {some(content)}, but no list of {", ".join(lists_missing(content))}.'


def read_coco(given: Given, files: Sequence[Path], predictions: bool) -> tuple[Reading, dict[Path, Any]]:
    """Read the file of each part, those of ``predictions`` too or not; return the contents of labelme's files beside.

    The reading has no pictures if no file is COCO's.
    """
    found, others = Reading('COCO', given.root), dict[Path, Any]()
    chosen = dict[str | None, tuple[Path, Any]]()
    for path in files:
        content = load(path)
        if isinstance(content, dict) and ('imagePath' in content or isinstance(content.get('shapes'), list)):  # labelme
            others[path] = {key: value for key, value in content.items() if key != 'imageData'}  # the picture itself
            continue
        part = folders.split_of([*path.relative_to(given.root).parts[:-1], path.stem])
        if lacking := lists_missing(content):
            if isinstance(content, dict) and 'images' in content:
                found.lost_files[f'have images, but no list of {", ".join(lacking)}'].append(path)
            continue
        if any('score' in one for one in content['annotations'] if isinstance(one, dict)):
            if not predictions:
                found.lost_files['have annotations with a score, as predictions have'].append(path)
                continue
            found.notes.append(f'WARNING: {path}: its annotations have a score, as predictions have')
        known = chosen.setdefault(part, (path, content))[0]
        if known != path:
            better = [one for one in (known, path) if 'instances' in one.name]
            if len(better) != 1:
                told = f'{known.name} and {path.name} are both for {part or "no split"}'
                raise ValueError(f'--data {given.root}: {told}. Keep one there, or give the file itself as --data.')
            found.lost_files['are for the part of another file'].append(known if better[0] == path else path)
            if better[0] == path:
                chosen[part] = path, content
    folders.let_the_rest_train(chosen)
    if len(chosen) > 1 and (left := chosen.pop(None, None)):
        found.lost_files['say train, val or test neither by name nor by folder'].append(left[0])
    for part in sorted(chosen, key=lambda part: part != 'train'):  # labels are numbered by the first
        with folders.named(chosen[part][0]):
            _add_part(found, part, *chosen[part], given)
    return found, others


def _add_part(found: Reading, part: str | None, path: Path, content: Any, given: Given) -> None:
    for number, one in enumerate(content['categories']):
        raw = one.get('name') if isinstance(one, dict) else None
        name = common.class_name(f'{path}: categories[{number}]', raw)
        if raw is not None and name != raw:
            found.changes[part]['names of categories were numbers, or had blanks at their ends'] += 1
            one['name'] = name
    check(content, MENDED)
    folder = _folder_of(path, [one['file_name'] for one in content['images']], given, part)
    found.files.append(path)
    found.origins[part] = path, folder
    changes = found.changes[part]
    with path.open('rb') as file:
        if json.detect_encoding(file.read(4)) != 'utf-8':
            changes['byte order mark, with which pycocotools cannot read it, is taken out'] += 1
    used = {one['category_id'] for one in content['annotations']}
    kinds = {one['id']: one['name'] for one in content['categories']}
    if twice := folders.repeated(kinds[number] for number in used):
        raise ValueError(f'two categories have one name: {some(twice)}. Rename one.')
    # of one name the one with boxes, else the last: the group that Roboflow writes first has none
    last = {one['name']: one['id'] for one in sorted(content['categories'], key=lambda one: one['id'] in used)}
    listed = [name for number, name in kinds.items() if last[name] == number]
    if twins := len(content['categories']) - len(listed):
        changes['categories without a box had the name of another one, and are taken out'] += twins
    if any(type(number) is str for number in kinds):
        changes['categories are numbered from 1: their ids were texts'] += len(kinds)
    found.listed[part] = listed
    found.classes += [name for name in listed if name not in found.classes]
    drawn: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for one in content['annotations']:
        drawn[one['image_id']].append({**one, 'name': kinds[one['category_id']]})
    if federated := [image['file_name'] for image in content['images'] if image.get('neg_category_ids')]:
        remark = f'{len(federated)} pictures have neg_category_ids (LVIS), which are not read'
        found.notes.append(f'WARNING: {path.name}: {remark}: what is not labelled there counts as not there')
    pictures = dict[str, Labelled]()
    for image in content['images']:
        name, objects = image['file_name'], drawn.pop(image['id'], [])
        size = None if None in (sides := (image.get('height'), image.get('width'))) else sides
        if name in pictures:
            if size and pictures[name].size not in (None, size):
                raise ValueError(f'two entries of images tell two sizes of {name}. Correct one.')
            changes['entries of images name a picture that is listed before; their boxes are joined'] += 1
            pictures[name].objects += objects
            continue
        pictures[name] = Labelled(folder / name, size, objects, part, image)
    found.pictures += pictures.values()
    for number, strays in drawn.items():
        for one in strays:
            found.drop('have an image_id that is the id of no picture', f'image_id {number!r}', one['name'], part)


def _folder_of(path: Path, names: Sequence[str], given: Given, part: str | None) -> Path:
    """Return the folder to which the file names of a label file are relative."""
    # of several that hold as many of them, one for the same part, not of label images, then the nearest one: parts
    # may reuse names
    root = given.root
    inside = dict.fromkeys(one.parent.relative_to(root) for one in given.pictures)
    above = [root / parent for one in inside for parent in (one, *one.parents)]  # up to the root
    places = list(dict.fromkeys([path.parent, root, *above]))
    if not names:
        raise ValueError('it lists no picture (images is empty).')
    looked = evenly(names, _LOOKED)

    def fits(folder: Path) -> tuple[int, bool, bool, int]:
        there, parts = sum(os.path.isfile(folder / name) for name in looked), folder.relative_to(root).parts
        of_part = folders.split_of(parts) == part
        return there, of_part, not folders.is_label(parts), len(os.path.commonpath([folder, path]))

    best = max(places, key=fits)
    if missing := [name for name in names if not os.path.isfile(best / name)]:
        told = f'{len(missing)} of the {len(names)} pictures of {path} are not there: {some(missing, 3)}'
        raise FileNotFoundError(f'--data: {told}; looked in {some(places, 5)}. A file_name is a path below one.')
    return best
