"""Labels in xml: VOC's, and CVAT's own.

VOC has a file for each picture, with boxes between corners that are counted from 1, by some tools from 0. CVAT
("CVAT for images") has all pictures in one file, with boxes, polygons, ellipses and masks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from mmdistill_dense.apps.project import picture_folders as folders
from mmdistill_dense.apps.project.formats.objects import Entry, Given, Reading, Shape, number

NAMES = ('classes.txt', 'labels.txt')  # of VOC's classes
_VOC, _CVAT = 'annotation', 'annotations'  # the root of their files
_SIDES = ('xmin', 'ymin', 'xmax', 'ymax')
_POINTS = {'box': ('xtl', 'ytl', 'xbr', 'ybr'), 'ellipse': ('cx', 'cy', 'rx', 'ry'), 'mask': ('left', 'top')}  # of CVAT


def recognise(given: Given) -> list[Path]:
    """Return the xml files, or none if the first is of another kind."""
    files = sorted(folders.files_below(given.root, ('.xml',)))
    return files if files and _root_of(files[0]).tag in (_VOC, _CVAT) else []


def read(given: Given, files: Sequence[Path]) -> Reading:
    """Read all files, which are of the first one's kind."""
    every = {path: _root_of(path) for path in files}
    kind = every[files[0]].tag
    kept = {path: root for path, root in every.items() if root.tag == kind}
    source = files[0].parent if kind == _VOC or len(files) > 1 else files[0]
    found = Reading('VOC xml' if kind == _VOC else 'CVAT xml', source, files=[*kept])
    found.lost_files['are xml of another kind'] = [path for path in files if path not in kept]
    if kind == _CVAT:
        entries = [one for path, root in kept.items() for one in _cvat_entries(given, found, path, root)]
        found.add(given, 'entries of CVAT', entries, [*_POINTS, 'polygon'])
        return found
    found.add(given, 'xml files', [_voc_entry(path, root) for path, root in kept.items()], ['box'])
    found.add_names(given.root, NAMES)
    drawn = [one['bbox'] for picture in found.pictures for one in picture.objects]
    if any(min(box[:2]) < 1 for box in drawn):
        found.notes.append('a box begins below 1, so corners are counted from 0; VOC itself counts from 1')
    else:
        for box in drawn:
            box[:2] = box[0] - 1, box[1] - 1
    return found


def _root_of(path: Path) -> Any:
    with folders.named(path):
        return ElementTree.parse(path).getroot()


def _voc_entry(path: Path, root: Any) -> Entry:
    name = root.findtext('filename') or path.stem
    words = [f'{path.stem}{Path(name).suffix}', path.stem, name]  # this one comes last: some tools copy it
    size = {side: root.findtext(f'size/{side}') for side in ('height', 'width')}
    return Entry(path, str(path), words, size, _voc_shapes(path, root))


def _voc_shapes(path: Path, root: Any) -> Iterator[Shape]:
    """Yield boxes. Those marked as difficult are ignored in training and scores, as VOC does."""
    for place, one in enumerate(root.iterfind('object'), 1):
        if not (name := (one.findtext('name') or '').strip()):
            raise ValueError(f'--data: {path}: object {place} has no name. Name it, or take it out.')
        where, told = f'{path}: object {place} ({name})', {side: one.findtext(f'bndbox/{side}') for side in _SIDES}
        if missing := [side for side, value in told.items() if value is None]:
            raise ValueError(f'--data: {where} has no bndbox with {", ".join(missing)}. Draw its box.')
        sides = [number(f'{where}: {side}', value) for side, value in told.items()]
        if sides[2] <= sides[0] or sides[3] <= sides[1]:
            raise ValueError(f'--data: {where}: xmax must be above xmin, and ymax above ymin.')
        crowd = (one.findtext('difficult') or '').strip().lower() in ('1', 'true', 'yes')
        marks = {mark.findtext('name'): mark.findtext('value') for mark in one.iterfind('attributes/attribute')}
        turn = 0.0
        with suppress(TypeError, ValueError):  # of a user's own attribute
            turn = number(where, marks.get('rotation'))  # CVAT writes the box before it was turned
        yield Shape(where, name, 'box', (sides[:2], sides[2:]), turn, marks={'iscrowd': int(crowd)})


def _cvat_entries(given: Given, found: Reading, path: Path, root: Any) -> Iterator[Entry]:
    """Yield pictures; their ``subset`` tells their part, else the name of the file."""
    if root.find('track') is not None:
        raise ValueError(f'--data: {path} is "CVAT for video". Export the task as "CVAT for images" or as COCO.')
    of_file = folders.split_of([*path.relative_to(given.root).parts[:-1], path.stem])
    labels = filter(None, ((one.text or '').strip() for one in root.iterfind('.//labels/label/name')))
    found.classes += [name for name in dict.fromkeys(labels) if name not in found.classes]
    for image in root.iterfind('image'):
        name, subset = image.get('name', ''), image.get('subset', '').lower()
        part = next((part for part, names in folders.SPLITS.items() if subset in names), of_file)
        size = {side: image.get(side) for side in ('height', 'width')}
        yield Entry(path, f'{path}: {name}', [name], size, _cvat_shapes(f'{path}: {name}', image), part, True)


def _cvat_shapes(picture: str, image: Any) -> Iterator[Shape]:
    for shape in sorted(image, key=lambda shape: number(f'{picture}: z_order', shape.get('z_order', '0'))):
        name = shape.get('label', '').strip()
        where = f'{picture}: {shape.tag}' + f' ({name})' * bool(name)
        values = [number(f'{where}: {key}', shape.get(key)) for key in _POINTS.get(shape.tag, ())]
        points: Any = [values[:2], values[2:]][: len(values) // 2]
        if shape.tag == 'polygon':
            points = [pair.split(',') for pair in shape.get('points', '').split(';') if pair]
        if shape.tag != 'attribute':
            turn = number(f'{where}: rotation', shape.get('rotation', '0'))
            yield Shape(where, name, shape.tag, points, turn, partial(_pixels, where, shape, image))


def _pixels(where: str, shape: Any, image: Any) -> np.ndarray:
    """Return a mask, whose run lengths go row by row through its own box."""
    sides = [int(number(f'{where}: {side}', one.get(side))) for one in (shape, image) for side in ('width', 'height')]
    width, height, *most = sides
    text = shape.get('rle', '').replace(' ', '')
    runs = [int(run) for run in text.split(',')] if re.fullmatch(r'[0-9]{1,9}(,[0-9]{1,9})*', text) else []
    if sum(runs) != width * height or sum(runs) > most[0] * most[1]:
        raise ValueError('its runs do not fill its box, or more than the picture. Export it again.')
    return np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
