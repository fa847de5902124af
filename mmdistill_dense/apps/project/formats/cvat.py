"""CVAT's own xml ("CVAT for images"): all pictures in one file, with boxes, polygons, ellipses and masks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmdistill_dense.apps.project.formats.objects import (
    Labelled,
    Object,
    Reading,
    circle,
    from_box,
    from_mask,
    from_points,
)
from mmdistill_dense.apps.project.formats.voc_xml import root_of
from mmdistill_dense.apps.project.parts import Names
from mmdistill_dense.apps.project.picture_folders import SPLITS, Size, files_below, split_of
from mmdistill_dense.utils.messages import some

FORM = 'CVAT xml'


def recognise(root: Path) -> list[Path]:
    """Return the xml files, or none if the first is of another kind."""
    files = sorted(files_below(root, ('.xml',)))
    return files if files and root_of(files[0]).tag == 'annotations' else []


def read(root: Path, files: Sequence[Path], pictures: Sequence[Path]) -> Reading:
    """Read all files; a picture's ``subset`` tells its part, else the name of the file."""
    found = Reading(FORM, files[0] if len(files) == 1 else files[0].parent)
    index, missing = Names(root, pictures), []
    for path in files:
        element = root_of(path)
        if element.find('track') is not None:
            raise ValueError(f'--data: {path} is "CVAT for video". Export the task as "CVAT for images" or as COCO.')
        of_file = split_of([*path.relative_to(root).parts[:-1], path.stem])
        labels = [one.text for one in element.iterfind('.//labels/label/name') if one.text]
        found.classes += [name for name in dict.fromkeys(labels) if name not in found.classes]
        for image in element.iterfind('image'):
            picture = index.find([image.get('name', '')])
            if picture is None:
                missing.append(image.get('name', ''))
                continue
            where = f'{path}: {picture.name}'
            shapes = sorted(image, key=lambda shape: _value(where, shape, 'z_order', '0'))
            size = int(_value(where, image, 'height')), int(_value(where, image, 'width'))
            objects = [one for shape in shapes for one in _objects(where, shape, size, found)]
            subset = str(image.get('subset', '')).lower()
            part = next((part for part, names in SPLITS.items() if subset in names), of_file)
            found.pictures.append(Labelled(picture, size, objects, part))
    if missing:
        raise FileNotFoundError(
            f'--data: {len(missing)} pictures of {some(files, 2)} are not below {root}: {some(missing, 3)}. Add them.'
        )
    return found


def _objects(where: str, shape: Any, size: Size, found: Reading) -> Iterator[Object]:
    name, kind = shape.get('label', '').strip(), shape.tag
    if kind == 'attribute':
        return
    if not name:
        raise ValueError(f'--data: {where}: a {kind} has no label. Name it, or take it out.')
    where = f'{where}: {kind} of {name}'
    if kind == 'polygon':
        yield {'name': name, **from_points(_polygon(where, shape.get('points', '')))}
    elif kind == 'box':
        left, top, right, bottom = (_value(where, shape, key) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
        if angle := _value(where, shape, 'rotation', '0'):
            yield {
                'name': name,
                **from_points(_turned([(left, top), (right, top), (right, bottom), (left, bottom)], angle)),
            }
        else:
            yield {'name': name, **from_box(left, top, right, bottom)}
    elif kind == 'ellipse':
        x, y, a, b = (_value(where, shape, key) for key in ('cx', 'cy', 'rx', 'ry'))
        yield {'name': name, **from_points(_turned(circle(x, y, a, b), _value(where, shape, 'rotation', '0')))}
    elif kind == 'mask':
        yield {'name': name, **_mask(where, shape, size)}
    else:
        found.dropped[f'shapes of the kind {kind}, which has no area'] += 1


def _value(where: str, element: Any, key: str, default: str = '') -> float:
    text = element.get(key, default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f'--data: {where}: {key} is {text!r}, no number. Export the task again.')
    return value


def _polygon(where: str, text: str) -> list[tuple[float, float]]:
    try:
        points = [(float(x), float(y)) for x, y in (pair.split(',') for pair in text.split(';') if pair)]
    except ValueError:
        points = [(math.nan, math.nan)]
    if not all(math.isfinite(value) for point in points for value in point):
        raise ValueError(f'--data: {where}: its points are {text!r:.60}. They are x,y;x,y;…')
    if len(points) < 3:
        raise ValueError(f'--data: {where}: {len(points)} points make no area. Draw it again, or take it out.')
    return points


def _turned(points: Sequence[tuple[float, float]], degrees: float) -> list[tuple[float, float]]:
    """Turn points around the middle of their box."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x0, y0 = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(x0 + (x - x0) * c - (y - y0) * s, y0 + (x - x0) * s + (y - y0) * c) for x, y in points]


def _mask(where: str, shape: Any, size: Size) -> Mapping[str, Any]:
    """Return a mask whose run lengths go row by row through its own box."""
    left, top, width, height = (int(_value(where, shape, key)) for key in ('left', 'top', 'width', 'height'))
    text = shape.get('rle', '').replace(' ', '')
    runs = [int(run) for run in text.split(',')] if re.fullmatch(r'\d+(,\d+)*', text) else []
    if sum(runs) != width * height:
        raise ValueError(f'--data: {where}: its runs do not fill its box. Export the task again.')
    return from_mask(where, np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width), left, top, size)
