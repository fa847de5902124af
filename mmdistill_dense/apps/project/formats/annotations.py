"""Annotations of labelme, VOC and COCO.

Labelme writes a json file for each picture, with shapes of points; VOC an xml file, with boxes between corners counted
from 1, by some tools from 0; COCO a json file for each part, or one for all.
"""

import base64
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from mmdistill_dense.apps.project.formats import objects as common
from mmdistill_dense.apps.project.formats.objects import Entry, Labelled, Object, Reading, Request, Shape
from mmdistill_dense.apps.project.picture_files import file_errors, files_below, is_label, repeated
from mmdistill_dense.apps.project.splits import assign_rest_to_train, split_of
from mmdistill_dense.datasets.label_files import MENDED, check_categories, lists_missing
from mmdistill_dense.utils.sampling import evenly
from mmdistill_dense.utils.validate import some
from mmdistill_dense.utils.version import removed

_SHAPE_KINDS = ('polygon', 'rectangle', 'circle', 'mask', 'oriented_rectangle', 'rotation')  # the last of X-AnyLabeling
_NAMES = ('labels.txt', 'classes.txt')
_IGNORED, _BACKGROUND = '__ignore__', '_background_'  # of labelme's own labels.txt
_NO_CLASSES: Mapping[str, Object] = {_IGNORED: {'iscrowd': 1}, _BACKGROUND: {'name': 'background'}}
_SIDES = ('xmin', 'ymin', 'xmax', 'ymax')
FORMATS = (
    'Boxes and polygons are read from json files of COCO (one for each split, with train, val or test in its name or '
    'folder, or one for all), YOLO text files, VOC xml and labelme json: docs/your_labels.md. Other '
    "formats: uvx --from 'datumaro[cli]' datum convert -i DATA -if FORMAT -f coco_instances -o OUT -- --save-media"
)
_SAMPLED_NAMES = 20  # pictures that are looked for in each folder


def read_labelme(request: Request, contents: Mapping[Path, Any]) -> Reading:
    """Read the contents of files by their paths. Shapes of one ``group_id`` and label are one object.

    For label images they stay apart, because each covers those before it. Two labels are no classes: what is drawn as
    ``__ignore__`` is ignored, ``_background_`` is the background.
    """
    reading = Reading('labelme json', next(iter(contents)).parent, files=[*contents])
    reading.classes = [name for name in reading.add_names(request.root, _NAMES) if name not in _NO_CLASSES]

    def shapes(path: Path) -> Iterator[Shape]:
        shape_list = contents[path].get('shapes')
        if not isinstance(shape_list, list):
            raise ValueError(f'shapes is {shape_list!r:.60}, no list. Take the file out, or label its picture.')
        for index, shape in enumerate(shape_list):
            where = f'{path}: shapes[{index}]'
            if not isinstance(shape, dict):
                raise ValueError(f'--data: {where} is {shape!r:.60}, no dict of label and points. Take it out.')
            name = common.class_name(where, shape.get('label'))
            group = None if request.task == 'seg' else shape.get('group_id')
            if name in _NO_CLASSES and request.task == 'det':
                reading.dropped[f'are shapes called {name}'].append(where)
                continue
            kind, marks = str(shape.get('shape_type') or 'polygon'), _NO_CLASSES.get(name, {})
            where += f' ({name or kind})'
            yield Shape(where, name, kind, shape.get('points'), partial(_pixels, shape), marks, group)

    entries = []
    for path, content in contents.items():
        words = [str(content.get('imagePath') or path.name).replace('\\', '/'), path.stem]
        size = {'height': content.get('imageHeight'), 'width': content.get('imageWidth')}
        entries.append(Entry(path, words, size, shapes(path)))
    reading.add(request, 'json files of labelme', entries, _SHAPE_KINDS)
    substitute = next((name for name in reading.names if name != _IGNORED), _IGNORED)
    for label in (label for sample in reading.pictures for label in sample.objects if label['name'] == _IGNORED):
        label['name'] = substitute  # a crowd is ignored, of whichever class
    return reading


def _pixels(shape: Mapping[str, Any]) -> np.ndarray:
    """Return a mask, which is a PNG of the box between two points."""
    if (pixels := np.asarray(Image.open(io.BytesIO(base64.b64decode(shape['mask']))))).ndim != 2:
        raise ValueError('its mask has colours, and not one channel. Draw it again.')
    return pixels > 0


def read_xml(request: Request) -> Reading | None:
    """Read all files of VOC, unless the first xml file is of another kind; CVAT's own is refused."""
    if not (files := sorted(files_below(request.root, ('.xml',)))):
        return None
    reading, entries = Reading('VOC xml', files[0].parent), list[Entry]()
    for path in files:
        with file_errors(path):
            root: Any = ElementTree.parse(path).getroot()
        if root.tag == 'annotations' and path == files[0]:
            raise ValueError(f'--data: {path}: {removed("CVAT xml")}')
        if root.tag != 'annotation':
            if path == files[0]:
                return None
            reading.skipped_files['are xml of another kind'].append(path)
            continue
        reading.files.append(path)
        name = root.findtext('filename') or path.stem
        words = [f'{path.stem}{Path(name).suffix}', path.stem, name]  # this one comes last: some tools copy it
        size = {side: root.findtext(f'size/{side}') for side in ('height', 'width')}
        entries.append(Entry(path, words, size, _voc_shapes(path, root)))
    reading.add(request, 'xml files', entries, ['box'])
    reading.add_names(request.root, ('classes.txt', 'labels.txt'))
    boxes = [instance['bbox'] for picture in reading.pictures for instance in picture.objects]
    if any(min(box[:2]) < 1 for box in boxes):
        reading.notes.append('a box begins below 1, so corners are counted from 0; VOC itself counts from 1')
    else:
        for box in boxes:
            box[:2] = box[0] - 1, box[1] - 1
    return reading


def _voc_shapes(path: Path, root: Any) -> Iterator[Shape]:
    """Yield boxes. Those marked as difficult are ignored in training and scores, as VOC does."""
    for index, node in enumerate(root.iterfind('object'), 1):
        if not (name := (node.findtext('name') or '').strip()):
            raise ValueError(f'--data: {path}: object {index} has no name. Name it, or take it out.')
        where, texts = f'{path}: object {index} ({name})', {side: node.findtext(f'bndbox/{side}') for side in _SIDES}
        if missing := [side for side, value in texts.items() if value is None]:
            raise ValueError(f'--data: {where} has no bndbox with {", ".join(missing)}. Draw its box.')
        sides = [common.number(f'{where}: {side}', value) for side, value in texts.items()]
        if sides[2] <= sides[0] or sides[3] <= sides[1]:
            raise ValueError(f'--data: {where}: xmax must be above xmin, and ymax above ymin.')
        crowd = (node.findtext('difficult') or '').strip().lower() in ('1', 'true', 'yes')
        marks = {mark.findtext('name'): mark.findtext('value') for mark in node.iterfind('attributes/attribute')}
        turned: dict[str, Any] = {}
        with suppress(ValueError):  # of a user's own attribute
            turned['attributes'] = {'rotation': common.number(where, marks.get('rotation'))}  # as in CVAT's COCO
        yield Shape(where, name, 'box', sides, marks={'iscrowd': int(crowd), **turned})


def load_json(path: Path) -> Any:
    """Return what a json file holds, in any encoding of Unicode."""
    with file_errors(path):
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


def read_coco(request: Request, files: Sequence[Path], predictions: bool) -> tuple[Reading, dict[Path, Any]]:
    """Read the file of each part, those of ``predictions`` too or not; return the contents of labelme's files beside.

    The reading has no pictures if no file is COCO's.
    """
    reading, labelme = Reading('COCO', request.root), dict[Path, Any]()
    chosen = dict[str | None, tuple[Path, Any]]()
    for path in files:
        content = load_json(path)
        if isinstance(content, dict) and ('imagePath' in content or isinstance(content.get('shapes'), list)):  # labelme
            labelme[path] = {key: value for key, value in content.items() if key != 'imageData'}  # the picture itself
            continue
        part = split_of([*path.relative_to(request.root).parts[:-1], path.stem])
        if lacking := lists_missing(content):
            if isinstance(content, dict) and 'images' in content:
                reading.skipped_files[f'have images, but no list of {", ".join(lacking)}'].append(path)
            continue
        if any('score' in annotation for annotation in content['annotations'] if isinstance(annotation, dict)):
            if not predictions:
                reading.skipped_files['have annotations with a score, as predictions have'].append(path)
                continue
            reading.notes.append(f'WARNING: {path}: its annotations have a score, as predictions have')
        other = chosen.setdefault(part, (path, content))[0]
        if other != path:
            better = [file for file in (other, path) if 'instances' in file.name]
            if len(better) != 1:
                text = f'{other.name} and {path.name} are both for {part or "no split"}'
                raise ValueError(f'--data {request.root}: {text}. Keep one there, or give the file itself as --data.')
            reading.skipped_files['are for the part of another file'].append(other if better[0] == path else path)
            if better[0] == path:
                chosen[part] = path, content
    assign_rest_to_train(chosen)
    if len(chosen) > 1 and (unassigned := chosen.pop(None, None)):
        reading.skipped_files['say train, val or test neither by name nor by folder'].append(unassigned[0])
    for part in sorted(chosen, key=lambda part: part != 'train'):  # labels are numbered by the first
        with file_errors(chosen[part][0]):
            _add_part(reading, part, *chosen[part], request)
    return reading, labelme


def _add_part(reading: Reading, part: str | None, path: Path, content: Any, request: Request) -> None:
    for number, category in enumerate(content['categories']):
        raw = category.get('name') if isinstance(category, dict) else None
        name = common.class_name(f'{path}: categories[{number}]', raw)
        if raw is not None and name != raw:
            reading.changes[part]['names of categories were numbers, or had blanks at their ends'] += 1
            category['name'] = name
    check_categories(content, MENDED)
    folder = _folder_of(path, [image['file_name'] for image in content['images']], request, part)
    reading.files.append(path)
    reading.origins[part] = path, folder
    changes = reading.changes[part]
    with path.open('rb') as file:
        if json.detect_encoding(file.read(4)) != 'utf-8':
            changes['byte order mark, with which pycocotools cannot read it, is taken out'] += 1
    used = {annotation['category_id'] for annotation in content['annotations']}
    kinds = {category['id']: category['name'] for category in content['categories']}
    if duplicates := repeated(kinds[number] for number in used):
        raise ValueError(f'two categories have one name: {some(duplicates)}. Rename one.')
    # of one name the one with boxes, else the last: the group that Roboflow writes first has none
    last = {kind['name']: kind['id'] for kind in sorted(content['categories'], key=lambda kind: kind['id'] in used)}
    names = [name for number, name in kinds.items() if last[name] == number]
    if twins := len(content['categories']) - len(names):
        changes['categories without a box had the name of another one, and are taken out'] += twins
    if any(type(number) is str for number in kinds):
        changes['categories are numbered from 1: their ids were texts'] += len(kinds)
    reading.categories[part] = names
    reading.classes += [name for name in names if name not in reading.classes]
    instances: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content['annotations']:
        instances[annotation['image_id']].append({**annotation, 'name': kinds[annotation['category_id']]})
    if federated := [image['file_name'] for image in content['images'] if image.get('neg_category_ids')]:
        remark = f'{len(federated)} pictures have neg_category_ids (LVIS), which are not read'
        reading.notes.append(f'WARNING: {path.name}: {remark}: what is not labelled there counts as not there')
    pictures = dict[str, Labelled]()
    for image in content['images']:
        name, objects = image['file_name'], instances.pop(image['id'], [])
        size = None if None in (sides := (image.get('height'), image.get('width'))) else sides
        if name in pictures:
            if size and pictures[name].size not in (None, size):
                raise ValueError(f'two entries of images tell two sizes of {name}. Correct one.')
            changes['entries of images name a picture that is listed before; their boxes are joined'] += 1
            pictures[name].objects += objects
            continue
        pictures[name] = Labelled(folder / name, size, objects, part, image)
    reading.pictures += pictures.values()
    for number, strays in instances.items():
        for stray in strays:
            reading.drop('have an image_id that is the id of no picture', f'image_id {number!r}', stray['name'], part)


def _folder_of(path: Path, names: Sequence[str], request: Request, part: str | None) -> Path:
    """Return the folder to which the file names of a label file are relative."""
    # of several that hold as many of them, one for the same part, not of label images, then the nearest one: parts
    # may reuse names
    root = request.root
    inside = dict.fromkeys(picture.parent.relative_to(root) for picture in request.pictures)
    above = [root / parent for folder in inside for parent in (folder, *folder.parents)]  # up to the root
    bases = list(dict.fromkeys([path.parent, root, *above]))
    if not names:
        raise ValueError('it lists no picture (images is empty).')
    sampled_names = evenly(names, _SAMPLED_NAMES)

    def score(folder: Path) -> tuple[int, bool, bool, int]:
        count, parts = sum(os.path.isfile(folder / name) for name in sampled_names), folder.relative_to(root).parts
        return count, split_of(parts) == part, not is_label(parts), len(os.path.commonpath([folder, path]))

    best = max(bases, key=score)
    if missing := [name for name in names if not os.path.isfile(best / name)]:
        problem = f'{len(missing)} of the {len(names)} pictures of {path} are not there: {some(missing, 3)}'
        raise FileNotFoundError(f'--data: {problem}; looked in {some(bases, 5)}. A file_name is a path below one.')
    return best
