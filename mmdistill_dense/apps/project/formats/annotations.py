"""Annotations of labelme (a json file a picture), VOC (an xml file a picture) and COCO (a json file a part, or one)."""

import base64
import io
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from mmdistill_dense.apps.project.formats import objects as common
from mmdistill_dense.apps.project.formats.objects import Entry, Labelled, Object, Reading, Request
from mmdistill_dense.apps.project.picture_files import file_errors, files_below, is_label, repeated, stored_size
from mmdistill_dense.apps.project.splits import assign_rest_to_train, split_of
from mmdistill_dense.datasets.label_files import MENDED, check_categories, has_mask, lists_missing
from mmdistill_dense.utils.sampling import evenly
from mmdistill_dense.utils.validate import size_text, some
from mmdistill_dense.utils.version import removed

# The least points of each kind of shape, the last of X-AnyLabeling; others have no area
_MIN_POINTS = {'polygon': 3, 'rectangle': 2, 'circle': 2, 'mask': 1, 'oriented_rectangle': 3, 'rotation': 3}
_NAMES = ('labels.txt', 'classes.txt')
_IGNORED, _BACKGROUND = '__ignore__', '_background_'  # of labelme's own labels.txt: they are no classes
_NO_CLASSES: Mapping[str, Object] = {_IGNORED: {'iscrowd': 1}, _BACKGROUND: {'name': 'background'}}
_SIDES = ('xmin', 'ymin', 'xmax', 'ymax')
FORMATS = (
    'Boxes and polygons are read from json files of COCO (one for each split, with train, val or test in its name or '
    'folder, or one for all), YOLO text files, VOC xml and labelme json: docs/your_labels.md. Other '
    "formats: uvx --from 'datumaro[cli]' datum convert -i DATA -if FORMAT -f coco_instances -o OUT -- --save-media"
)


def read_labelme(request: Request, contents: Mapping[Path, Any]) -> Reading:
    """Read the contents of files by their paths."""
    reading, entries = Reading('labelme json', next(iter(contents)).parent, files=[*contents]), list[Entry]()
    reading.classes = [name for name in reading.add_names(request.root, _NAMES) if name not in _NO_CLASSES]
    for path, content in contents.items():
        words = [str(content.get('imagePath') or path.name).replace('\\', '/'), path.stem]
        size = {'height': content.get('imageHeight'), 'width': content.get('imageWidth')}
        entries.append(Entry(path, words, size, partial(_labelme_objects, path, content, request.task, reading)))
    reading.add(request, 'json files of labelme', entries)
    substitute = next((name for name in reading.names if name != _IGNORED), _IGNORED)
    for label in (label for sample in reading.pictures for label in sample.objects if label['name'] == _IGNORED):
        label['name'] = substitute  # a crowd is ignored, of whichever class
    return reading


def _labelme_objects(path: Path, content: Any, task: str, reading: Reading, sample: Labelled) -> Iterator[Object]:
    """Yield objects: shapes of one ``group_id`` and label are one, but in label images, where each covers the last."""
    if not isinstance(shapes := content.get('shapes'), list):
        raise ValueError(f'shapes is {shapes!r:.60}, no list. Take the file out, or label its picture.')
    groups = defaultdict[tuple[int | str, str], list[Object]](list)
    for index, shape in enumerate(shapes):
        where = f'{path}: shapes[{index}]'
        if not isinstance(shape, dict):
            raise ValueError(f'--data: {where} is {shape!r:.60}, no dict of label and points. Take it out.')
        name, kind = common.class_name(where, shape.get('label')), str(shape.get('shape_type') or 'polygon')
        if name in _NO_CLASSES and task == 'det':
            reading.dropped[f'are shapes called {name}'].append(where)
            continue
        where += f' ({name or kind})'
        if not name:
            raise ValueError(f'--data: {where} has no label. Name it, or take it out.')
        if kind not in _MIN_POINTS:
            reading.drop(f'are shapes of the kind {kind:.40}, which has no area', where, name)
            continue
        group = index if task == 'seg' or shape.get('group_id') is None else repr(shape['group_id'])
        groups[group, name].append(_shape_object(where, kind, shape, sample))
    for (_, name), parts in groups.items():
        yield {'name': name, **_merge_objects(parts, sample), **_NO_CLASSES.get(name, {})}


def _shape_object(where: str, kind: str, shape: Mapping[str, Any], sample: Labelled) -> Object:
    """Return box, area and outline of a shape. A circle has its middle and a point on it."""
    points = common.points_of(where, shape.get('points'), sample.size)
    if len(points) < _MIN_POINTS[kind]:
        raise ValueError(f'--data: {where}: {len(points)} points make no area. Draw it again, or take it out.')
    if kind == 'mask':
        size = stored_size(sample.picture)  # turned or not; another one may take any memory
        if sample.size is None or {*sample.size} != {*size}:
            file_size = f'{size_text(sample.size)} pixels' if sample.size else 'no height and width'
            problem = f'{where} is a mask, and its file tells {file_size} of {sample.picture}'
            raise ValueError(f'--data: {problem}: {size_text(size)}.')
        with file_errors(where, 'Draw it again'):
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape['mask']))))
            if pixels.ndim != 2:
                raise ValueError('its mask has colours, and not one channel. Draw it again.')
            return common.from_mask(where, pixels > 0, round(points[0][0]), round(points[0][1]), sample.size)
    if kind == 'circle':
        (x, y), radius = points[0], math.dist(*points[:2])
        angles = [2 * math.pi * corner / 72 for corner in range(72)]
        points = [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
    elif kind == 'rectangle':
        (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*points, strict=True))
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return common.from_points(common.points_of(where, points, sample.size))


def _merge_objects(parts: Sequence[Object], sample: Labelled) -> Object:
    if len(parts) == 1:
        return parts[0]
    shapes = [part['segmentation'] for part in parts]
    if sample.size and any(isinstance(shape, dict) for shape in shapes):
        inside = coco.decode(coco.merge([common.shape_run_lengths(shape, sample.size) for shape in shapes]))
        return common.from_mask('', inside, 0, 0, sample.size)
    # by the boxes, not the points: rounding tells both apart, and label files of before were written so
    corners = [value for x, y, w, h in (part['bbox'] for part in parts) for value in (x, y, x + w, y + h)]
    whole = common.from_rings([corners], sum(part['area'] for part in parts))
    return {**whole, 'segmentation': [ring for shape in shapes for ring in shape]}


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
        entries.append(Entry(path, words, size, partial(_voc_objects, path, root)))
    reading.add(request, 'xml files', entries)
    reading.add_names(request.root, ('classes.txt', 'labels.txt'))
    boxes = [instance['bbox'] for picture in reading.pictures for instance in picture.objects]
    if any(min(box[:2]) < 1 for box in boxes):
        reading.notes.append('a box begins below 1, so corners are counted from 0; VOC itself counts from 1')
    else:
        for box in boxes:
            box[:2] = box[0] - 1, box[1] - 1
    return reading


def _voc_objects(path: Path, root: Any, sample: Labelled) -> Iterator[Object]:
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
        common.refuse_turned(where, node.findtext("attributes/attribute[name='rotation']/value"))
        crowd = (node.findtext('difficult') or '').strip().lower() in ('1', 'true', 'yes')
        yield {'name': name, **common.from_box(*sides), 'iscrowd': int(crowd)}


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
    """Return a reading, without pictures if no file is COCO's, and the contents of labelme's files beside."""
    reading, labelme = Reading('COCO', request.root), dict[Path, Any]()
    contents = defaultdict[str | None, dict[Path, Any]](dict)
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
        contents[part][path] = content
    assign_rest_to_train(contents)
    if len(contents) > 1 and (unassigned := contents.pop(None, None)):
        reading.skipped_files['say train, val or test neither by name nor by folder'] += unassigned
    for part in sorted(contents, key=lambda part: part != 'train'):  # labels are numbered by the first
        best = [path for path in contents[part] if len(contents[part]) == 1 or 'instances' in path.name]
        if len(best) != 1:
            text = f'{" and ".join(path.name for path in contents[part])} are both for {part or "no split"}'
            raise ValueError(f'--data {request.root}: {text}. Keep one there, or give the file itself as --data.')
        others = [path for path in contents[part] if path != best[0]]
        reading.skipped_files['are for the part of another file'] += others
        with file_errors(best[0]):
            _add_part(reading, part, best[0], contents[part][best[0]], request)
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
    changes = reading.changes[part]
    if json.detect_encoding(path.read_bytes()) != 'utf-8':
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
    reading.origins[part] = path, folder, names
    reading.classes += [name for name in names if name not in reading.classes]
    if federated := [image['file_name'] for image in content['images'] if image.get('neg_category_ids')]:
        remark = f'{len(federated)} pictures have neg_category_ids (LVIS), which are not read'
        reading.notes.append(f'WARNING: {path.name}: {remark}: what is not labelled there counts as not there')
    pictures, by_id = dict[str, Labelled](), dict[Any, Labelled]()
    for image in content['images']:
        sides = image.get('height'), image.get('width')
        sample = Labelled(folder / image['file_name'], None if None in sides else sides, [], part, image)
        by_id[image['id']] = first = pictures.setdefault(image['file_name'], sample)
        if first is not sample:
            if sample.size and first.size not in (None, sample.size):
                raise ValueError(f'two entries of images tell two sizes of {image["file_name"]}. Correct one.')
            changes['entries of images name a picture that is listed before; their boxes are joined'] += 1
    reading.pictures += pictures.values()
    order = {number: index for index, number in enumerate(by_id)}  # boxes of joined entries follow one another
    for annotation in sorted(content['annotations'], key=lambda box: order.get(box['image_id'], len(order))):
        number, name = annotation['image_id'], kinds[annotation['category_id']]
        marks = annotation.get('attributes')
        if isinstance(marks, dict) and type(marks.get('rotation')) in (int, float) and not has_mask(annotation):
            common.refuse_turned(f'{path}: the box {annotation["bbox"]}', marks['rotation'])
        if number in by_id:
            by_id[number].objects.append({**annotation, 'name': name})
        else:
            reading.drop('have an image_id that is the id of no picture', f'image_id {number!r}', name, part)


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
    sampled_names = evenly(names, 20)  # which are looked for in each folder

    def score(folder: Path) -> tuple[int, bool, bool, int]:
        count, parts = sum(os.path.isfile(folder / name) for name in sampled_names), folder.relative_to(root).parts
        return count, split_of(parts) == part, not is_label(parts), len(os.path.commonpath([folder, path]))

    best = max(bases, key=score)
    if missing := [name for name in names if not os.path.isfile(best / name)]:
        problem = f'{len(missing)} of the {len(names)} pictures of {path} are not there: {some(missing, 3)}'
        raise FileNotFoundError(f'--data: {problem}; looked in {some(bases, 5)}. A file_name is a path below one.')
    return best
