"""Labels in xml: VOC's, and CVAT's own.

VOC has a file for each picture, with boxes between corners that are counted from 1, by some tools from 0. CVAT
("CVAT for images") has all pictures in one file, with boxes, polygons, ellipses and masks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from mmdistill_dense.apps.project import picture_folders as folders
from mmdistill_dense.apps.project.formats import objects as common
from mmdistill_dense.apps.project.formats.objects import Given, Labelled, Object, Point, Reading
from mmdistill_dense.utils.validate import some

NAMES = ('classes.txt', 'labels.txt')  # of VOC's classes
_ROOTS = ('annotation', 'annotations')  # of VOC and of CVAT


def recognise(given: Given) -> list[Path]:
    """Return the xml files, or none if the first is of another kind."""
    files = sorted(folders.files_below(given.root, ('.xml',)))
    return files if files and _root_of(files[0]).tag in _ROOTS else []


def read(given: Given, files: Sequence[Path]) -> Reading:
    """Read all files, which are of the first one's kind."""
    return (_read_voc if _root_of(files[0]).tag == _ROOTS[0] else _read_cvat)(given, files)


def _root_of(path: Path) -> Any:
    with folders.named(path):
        return ElementTree.parse(path).getroot()


# VOC


def _of_kind(files: Sequence[Path], tag: str, found: Reading) -> dict[Path, Any]:
    """Return the elements of the files of one kind."""
    every = {path: _root_of(path) for path in files}
    found.files += [path for path, one in every.items() if one.tag == tag]
    found.lost_files['are xml of another kind'] = [path for path in files if every[path].tag != tag]
    return {path: every[path] for path in found.files}


def _read_voc(given: Given, files: Sequence[Path]) -> Reading:
    """Read all files. Objects marked as difficult are ignored in training and scores, as VOC does."""
    found = Reading('VOC xml', files[0].parent)
    elements = _of_kind(files, _ROOTS[0], found)
    # the name that a file tells comes last: some tools copy it between files
    told = {path: one.findtext('filename') or path.stem for path, one in elements.items()}
    names = {path: [f'{path.stem}{Path(name).suffix}', path.stem, name] for path, name in told.items()}
    for path, picture in given.pictures_of(names, 'xml files').items():
        with folders.named(path):
            size = common.told_size(path, *(elements[path].findtext(f'size/{side}') for side in ('height', 'width')))
            numbered = enumerate(elements[path].iterfind('object'), 1)
            objects = [_voc_object(f'{path}: object {place}', one) for place, one in numbered]
        found.pictures.append(Labelled(picture, size, objects, given.part_of(path, picture)))
    found.add_names(given.root, NAMES)
    drawn = [one['bbox'] for picture in found.pictures for one in picture.objects]
    if any(min(box[:2]) < 1 for box in drawn):
        found.notes.append('a box begins below 1, so corners are counted from 0; VOC itself counts from 1')
    else:
        for box in drawn:
            box[:2] = box[0] - 1, box[1] - 1
    return found


def _voc_object(where: str, element: Any) -> Object:
    name = (element.findtext('name') or '').strip()
    if not name:
        raise ValueError(f'--data: {where} has no name. Name it, or take it out.')
    where = f'{where} ({name})'
    sides = {side: element.findtext(f'bndbox/{side}') for side in ('xmin', 'ymin', 'xmax', 'ymax')}
    if None in sides.values():
        raise ValueError(f'--data: {where} has no bndbox with {", ".join(sides)}. Draw its box.')
    left, top, right, bottom = (common.number(f'{where}: {side}', text) for side, text in sides.items())
    if right <= left or bottom <= top:
        raise ValueError(f'--data: {where}: xmax must be above xmin, and ymax above ymin.')
    difficult = (element.findtext('difficult') or '').strip().lower() in ('1', 'true', 'yes')
    return {'name': name, **common.from_box(left, top, right, bottom), 'iscrowd': int(difficult)}


# CVAT


def _read_cvat(given: Given, files: Sequence[Path]) -> Reading:
    """Read all files; a picture's ``subset`` tells its part, else the name of the file."""
    found, missing = Reading('CVAT xml', files[0] if len(files) == 1 else files[0].parent), list[str]()
    elements = _of_kind(files, _ROOTS[1], found)
    index = given.index(image.get('name', '') for one in elements.values() for image in one.iterfind('image'))
    for path, element in elements.items():
        if element.find('track') is not None:
            raise ValueError(f'--data: {path} is "CVAT for video". Export the task as "CVAT for images" or as COCO.')
        of_file = folders.split_of([*path.relative_to(given.root).parts[:-1], path.stem])
        labels = [one.text for one in element.iterfind('.//labels/label/name') if one.text]
        found.classes += [name for name in dict.fromkeys(labels) if name not in found.classes]
        for image in element.iterfind('image'):
            picture = index.find([image.get('name', '')])
            if picture is None:
                missing.append(image.get('name', ''))
                continue
            subset, where = str(image.get('subset', '')).lower(), f'{path}: {picture.name}'
            part = next((part for part, names in folders.SPLITS.items() if subset in names), of_file)
            size = common.told_size(where, image.get('height'), image.get('width'))
            one = Labelled(picture, size, [], part)
            with folders.named(where):
                for shape in sorted(image, key=lambda shape: _value(where, shape, 'z_order', '0')):
                    one.objects += _cvat_objects(where, shape, one, found)
            found.pictures.append(one)
    if missing:
        told = f'{len(missing)} pictures of {some(files, 2)} are not below {given.root}: {some(missing, 3)}'
        raise FileNotFoundError(f'--data: {told}. Add them.')
    return found


def _cvat_objects(where: str, shape: Any, one: Labelled, found: Reading) -> Iterator[Object]:
    name, kind = shape.get('label', '').strip(), shape.tag
    if kind == 'attribute':
        return
    if not name:
        raise ValueError(f'--data: {where}: a {kind} has no label. Name it, or take it out.')
    where, turn = f'{where}: {kind} of {name}', _value(where, shape, 'rotation', '0')
    if kind == 'mask':
        yield {'name': name, **_cvat_mask(where, shape, one)}
        return
    if kind == 'polygon':
        pairs = [pair.split(',') for pair in shape.get('points', '').split(';') if pair]
        yield {'name': name, **common.from_points(common.points_of(where, pairs, one.size, 3))}
        return
    if kind == 'box':
        left, top, right, bottom = (_value(where, shape, key) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
        if not turn:
            yield {'name': name, **common.from_box(left, top, right, bottom)}
            return
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    elif kind == 'ellipse':
        points = common.circle(*(_value(where, shape, key) for key in ('cx', 'cy', 'rx', 'ry')))
    else:
        found.drop(f'are shapes of the kind {kind:.40}, which has no area', where, name)
        return
    yield {'name': name, **common.from_points(common.points_of(where, _turned(points, turn), one.size))}


def _value(where: str, element: Any, key: str, default: str = '') -> float:
    return common.number(f'{where}: {key}', element.get(key, default))


def _turned(points: Sequence[Point], degrees: float) -> list[Point]:
    left, top, right, bottom = common.bounds(points)
    x0, y0 = (left + right) / 2, (top + bottom) / 2
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(x0 + (x - x0) * c - (y - y0) * s, y0 + (x - x0) * s + (y - y0) * c) for x, y in points]


def _cvat_mask(where: str, shape: Any, one: Labelled) -> Object:
    """Return a mask whose run lengths go row by row through its own box."""
    left, top, width, height = (int(_value(where, shape, key)) for key in ('left', 'top', 'width', 'height'))
    text, size = shape.get('rle', '').replace(' ', ''), common.size_for_mask(where, one)
    runs = [int(run) for run in text.split(',')] if re.fullmatch(r'[0-9]{1,9}(,[0-9]{1,9})*', text) else []
    if sum(runs) != width * height or sum(runs) > size[0] * size[1]:
        raise ValueError(f'--data: {where}: its runs do not fill its box, or more than the picture. Export it again.')
    return common.from_mask(where, np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width), left, top, size)
