"""labelme's json files: one a picture, shapes with a label and points."""

from __future__ import annotations

import base64
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from mmdistill_dense.apps.project import picture_folders as folders
from mmdistill_dense.apps.project.formats import objects as common
from mmdistill_dense.apps.project.formats.objects import Given, Labelled, Object, Reading

NAMES = ('labels.txt', 'classes.txt')
_IGNORED, _BACKGROUND = '__ignore__', '_background_'  # of labelme's own labels.txt
_NO_CLASSES: Mapping[str, Object] = {_IGNORED: {'iscrowd': 1}, _BACKGROUND: {'name': 'background'}}
# points of each kind of shape; X-AnyLabeling calls turned boxes `rotation`
_LEAST = {'polygon': 3, 'rectangle': 2, 'circle': 2, 'mask': 1, 'oriented_rectangle': 3, 'rotation': 3}


def is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and ('imagePath' in content or isinstance(content.get('shapes'), list))


def read(given: Given, contents: Mapping[Path, Any]) -> Reading:
    """Read the contents of files by their paths. Shapes of one ``group_id`` and label are one object.

    For label images they stay apart, because each covers those before it. Two labels are no classes: what is drawn as
    ``__ignore__`` is ignored, ``_background_`` is the background.
    """
    found = Reading('labelme json', next(iter(contents)).parent, files=[*contents])
    found.classes = [name for name in found.add_names(given.root, NAMES) if name not in _NO_CLASSES]
    told = {path: str(one.get('imagePath') or path.name) for path, one in contents.items()}
    names = {path: [name.replace('\\', '/'), path.stem] for path, name in told.items()}
    for path, picture in given.pictures_of(names, 'json files of labelme').items():
        with folders.named(path):
            one = Labelled(picture, None, [], given.part_of(path, picture))
            _add(given, path, contents[path], one, found)
        found.pictures.append(one)
    known = next((name for name in found.names if name != _IGNORED), _IGNORED)
    for drawn in (drawn for one in found.pictures for drawn in one.objects if drawn['name'] == _IGNORED):
        drawn['name'] = known  # a crowd is ignored, of whichever class
    return found


def _add(given: Given, path: Path, content: Mapping[str, Any], one: Labelled, found: Reading) -> None:
    """Add what a file holds to its picture."""
    one.size = common.told_size(path, content.get('imageHeight'), content.get('imageWidth'))
    groups: dict[Any, list[Object]] = defaultdict(list)
    if not isinstance(content.get('shapes'), list):
        raise ValueError(f'shapes is {content.get("shapes")!r:.60}, no list. Take the file out, or label its picture.')
    for place, shape in enumerate(content['shapes']):
        where = f'{path}: shapes[{place}]'
        if not isinstance(shape, dict):
            raise ValueError(f'--data: {where} is {shape!r:.60}, no dict of label and points. Take it out.')
        name, kind = str(shape.get('label') or '').strip(), str(shape.get('shape_type') or 'polygon')
        if not name:
            raise ValueError(f'--data: {where} ({kind}) has no label. Name it, or take it out.')
        if name in _NO_CLASSES and given.task == 'det':
            found.lost[f'are shapes called {name}'].append(where)
        elif kind not in _LEAST:
            found.drop(f'are shapes of the kind {kind:.40}, which has no area', where, name)
        else:
            drawn = {'name': name, **_drawn(f'{where} ({name})', shape, kind, one), **_NO_CLASSES.get(name, {})}
            group = shape.get('group_id') if given.task == 'det' else None
            groups[place if group is None else (repr(group), name)].append(drawn)
    one.objects = [_joined(group, one) for group in groups.values()]


def _drawn(where: str, shape: Mapping[str, Any], kind: str, one: Labelled) -> Object:
    points = common.points_of(where, shape.get('points'), one.size, _LEAST[kind])
    if kind == 'mask':  # a PNG of the box between its two points
        with folders.named(f'{where} is a mask that', 'Draw it again'):
            inside = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape['mask'])))) > 0
        x, y = points[0]
        return common.from_mask(where, inside, round(x), round(y), common.size_for_mask(where, one))
    if kind == 'circle':
        (x, y), edge = points[:2]
        points = common.points_of(where, common.circle(x, y, *[math.dist((x, y), edge)] * 2), one.size)
    if kind == 'rectangle':
        left, top, right, bottom = common.bounds(points)
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return common.from_points(points)


def _joined(parts: Sequence[Object], one: Labelled) -> Object:
    """Return one object of several polygons and masks."""
    if len(parts) == 1:
        return parts[0]
    shapes = [part['segmentation'] for part in parts]
    if one.size and any(isinstance(shape, dict) for shape in shapes):
        inside = coco.decode(coco.merge([common.packed(shape, one.size) for shape in shapes]))
        return {**parts[0], **common.from_mask('', inside, 0, 0, one.size)}
    boxes = [part['bbox'] for part in parts]
    corners = [corner for x, y, w, h in boxes for corner in ((x, y), (x + w, y + h))]
    rings = [ring for part in parts for ring in part['segmentation']]
    area = sum(part['area'] for part in parts)
    return {**parts[0], **common.from_box(*common.bounds(corners)), 'area': area, 'segmentation': rings}
