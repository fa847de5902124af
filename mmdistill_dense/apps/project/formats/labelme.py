"""labelme's json files: one a picture, shapes with a label and points."""

from __future__ import annotations

import base64
import io
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmdistill_dense.apps.project.formats.objects import (
    Labelled,
    Object,
    Reading,
    circle,
    from_box,
    from_mask,
    from_points,
    listed_names,
)
from mmdistill_dense.apps.project.parts import Names
from mmdistill_dense.apps.project.picture_folders import Size, split_of
from mmdistill_dense.utils.messages import some

FORM = 'labelme json'
NAMES = ('labels.txt', 'classes.txt')
_NO_CLASSES = ('__ignore__', '_background_')  # of labelme's own labels.txt


def is_labelme(content: Any) -> bool:
    """Tell whether a json file is of labelme."""
    return isinstance(content, dict) and isinstance(content.get('shapes'), list) and 'imagePath' in content


def read(root: Path, contents: Mapping[Path, Any], pictures: Sequence[Path]) -> Reading:
    """Read the contents of files by their paths. Shapes of one ``group_id`` and label are one object."""
    names = [name for name in listed_names(root, NAMES)[0] if name not in _NO_CLASSES]
    found = Reading(FORM, next(iter(contents)).parent, classes=names)
    index, known, alone = Names(root, pictures), set(pictures), []
    for path, content in contents.items():
        given = str(content['imagePath']).replace('\\', '/')
        beside = Path(os.path.normpath(path.parent / given))
        picture = beside if beside in known else index.find([given, path.stem])
        if picture is None:
            alone.append(path)
            continue
        height, width = content.get('imageHeight'), content.get('imageWidth')
        size = (int(height), int(width)) if height and width else None
        groups: dict[Any, list[Object]] = defaultdict(list)
        for number, shape in enumerate(content['shapes']):
            if drawn := _object(f'--data: {path}: shapes[{number}]', shape, size, found):
                group = shape.get('group_id')
                groups[number if group is None else (group, drawn['name'])].append(drawn)
        part = split_of(path.relative_to(root).parts[:-1]) or split_of(picture.relative_to(root).parts[:-1])
        found.pictures.append(
            Labelled(picture, size, [drawn for group in groups.values() for drawn in _joined(group)], part)
        )
    if alone:
        raise FileNotFoundError(
            f'--data: {len(alone)} of {len(contents)} json files of labelme have no picture: {some(alone, 3)}. Add the '
            'pictures (imagePath), or take these files out.'
        )
    return found


def _object(where: str, shape: Any, size: Size | None, found: Reading) -> Object:
    if not isinstance(shape, dict):
        raise ValueError(f'{where} is {shape!r:.60}, no dict of label and points. Take it out.')
    name, kind = str(shape.get('label') or '').strip(), shape.get('shape_type') or 'polygon'
    try:
        points = [(float(x), float(y)) for x, y in shape.get('points', [])]
    except (TypeError, ValueError):
        points = [(math.nan, math.nan)]
    if not all(math.isfinite(value) for point in points for value in point):
        raise ValueError(
            f'{where} ({name}): its points are {shape.get("points")!r:.60}, no pairs of numbers. Draw it again, or '
            'take it out.'
        )
    if not name:
        raise ValueError(f'{where} ({kind}) has no label. Name it, or take it out.')
    if kind == 'mask':
        return {'name': name, **_mask(where, shape, points, size)}
    if kind not in ('polygon', 'rectangle', 'circle', 'oriented_rectangle'):
        found.dropped[f'shapes of the kind {kind}, which has no area'] += 1
        return {}
    needed = 2 if kind in ('rectangle', 'circle') else 3
    if len(points) < needed:
        raise ValueError(f'{where} ({name}): {len(points)} points make no {kind}. Draw it again, or take it out.')
    if kind == 'circle':
        (x, y), edge = points[:2]
        points = circle(x, y, *[math.dist((x, y), edge)] * 2)
    if kind == 'rectangle':
        xs, ys = [x for x, _ in points], [y for _, y in points]
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
        corners = [left, top, right, top, right, bottom, left, bottom]
        return {'name': name, **from_box(left, top, right, bottom), 'segmentation': [corners]}
    return {'name': name, **from_points(points)}


def _mask(where: str, shape: Any, points: Sequence[tuple[float, float]], size: Size | None) -> Mapping[str, Any]:
    """Return a mask, which labelme keeps as a PNG of the box between its two points."""
    try:
        inside = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape['mask'])))) > 0
        left, top = (round(value) for value in points[0])
    except (KeyError, IndexError, ValueError, OSError) as error:
        raise ValueError(f'{where} is a mask that cannot be read ({error}). Draw it again, or take it out.') from error
    return from_mask(where, inside, left, top, size or (0, 0))


def _joined(parts: Sequence[Object]) -> Sequence[Object]:
    """Return one object of several polygons; masks stay apart."""
    if len(parts) == 1 or any(not isinstance(part['segmentation'], list) for part in parts):
        return parts
    edges = np.array([(x, y, x + w, y + h) for x, y, w, h in (part['bbox'] for part in parts)])
    (left, top), (right, bottom) = edges[:, :2].min(0).tolist(), edges[:, 2:].max(0).tolist()
    rings = [ring for part in parts for ring in part['segmentation']]
    area = sum(part['area'] for part in parts)
    return [{**parts[0], 'bbox': [left, top, right - left, bottom - top], 'area': area, 'segmentation': rings}]
