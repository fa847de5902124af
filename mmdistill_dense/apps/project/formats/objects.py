"""What every reader is given and gives, and what is made of it: labels that training and metric read alike.

Readers return a :class:`Reading`. Those of shapes that were drawn by hand give one :class:`Entry` a picture, and
:meth:`Reading.add` does the rest for all of them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from pycocotools import mask as coco

from mmdistill_dense.apps.project import picture_folders as folders
from mmdistill_dense.apps.project.picture_folders import Names, Size, named, opened, size_of
from mmdistill_dense.datasets.label_files import (
    FAR,
    check_shapes,
    has_area,
    has_mask,
    is_line,
    left_out,
    outline_fault,
    wrong_ids,
)
from mmdistill_dense.utils.validate import size_text, some

_CORNERS = 72  # of a circle
_LEAST = {'polygon': 3, 'oriented_rectangle': 3, 'rotation': 3, 'mask': 1}  # points of a kind of shape, of others 2
Point = tuple[float, float]
Object = dict[str, Any]  # an annotation of COCO with the ``name`` of its class in place of numbers


@dataclass(frozen=True)
class Given:
    """A folder, and what the command line says of it."""

    root: Path
    pictures: Sequence[Path]
    classes: Sequence[str] = ()
    exif: str | None = None
    divided: bool = False  # whether the command line says which part each picture belongs to
    task: str = 'det'  # or ``'seg'``: objects become label images

    def part_of(self, *files: Path) -> str | None:
        """Return the part (train, val, test) that a folder above the first file names, else above the next one."""
        return next(filter(None, (folders.split_of(file.relative_to(self.root).parts[:-1]) for file in files)), None)

    def index(self, words: Iterable[str]) -> Names:
        """Return the pictures that words of label files may name; labelme writes others beside its files.

        Those in a folder of label images count only if none in it has the name of another one.
        """
        stems = {PureWindowsPath(word).stem for word in words}
        named = [one for one in self.pictures if one.stem in stems]
        outside = folders.outside_labels(self.root, named)
        inside, known = {*named} - {*outside}, {one.stem for one in outside}
        labels = {one.parent for one in inside if one.stem in known}
        return Names(self.root, [one for one in named if one.parent not in labels], self.pictures)


@dataclass
class Labelled:
    picture: Path
    size: Size | None  # as its labels say; ``None``: not told
    objects: list[Object]
    part: str | None = None  # where the labels tell it; '' for none of the parts that they tell
    image: Mapping[str, Any] = field(default_factory=dict)  # its entry in a file of COCO

    def name(self, folder: Path) -> str:
        """Return its path below the folder of its part, or however a file of COCO names it."""
        return self.image.get('file_name') or self.picture.relative_to(folder).as_posix()


@dataclass
class Shape:
    """What somebody drew."""

    where: str  # with its class
    name: str  # of its class
    kind: str
    points: Any = ()  # of a circle its middle and one on it
    mask: Callable[[], Any] = list  # gives an array (height, width), which begins at the first point
    marks: Mapping[str, Any] = field(default_factory=dict)  # for its annotation
    group: Any = None  # shapes of one group and class are one object


@dataclass
class Entry:
    """A picture as a label file describes it."""

    file: Path
    where: str  # the file, and the place in it
    words: Sequence[str]  # that may name the picture
    size: Mapping[str, Any]  # ``height`` and ``width`` as they are written; nothing or 0 where the tool tells none
    shapes: Iterable[Shape]


@dataclass
class Reading:
    """What a reader found in a folder."""

    form: str  # the name of the format
    source: Path  # a label file, or the folder that holds all of them
    pictures: list[Labelled] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)  # as the format orders them; others follow by name
    files: list[Path] = field(default_factory=list)  # that were read
    lost_files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))  # by reason
    lost: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # annotations, by reason
    kinds: Counter[str] = field(default_factory=Counter)  # the classes of these
    notes: list[str] = field(default_factory=list)
    # Of COCO, by part: the file and the folder of its pictures, the categories, and what was changed
    origins: dict[str | None, tuple[Path, Path]] = field(default_factory=dict)
    listed: dict[str | None, list[str]] = field(default_factory=dict)
    changes: dict[str | None, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    touched: set[str | None] = field(default_factory=set)  # parts from which something was left out
    misfits: dict[str | None, str] = field(default_factory=dict)  # by part, a mask of another size than its picture

    def file_of(self, part: str | None) -> Path:
        """Return the label file of a part."""
        return self.origins.get(part, (self.source,))[0]

    def add(self, given: Given, what: str, entries: Sequence[Entry], kinds: Collection[str]) -> None:
        """Take pictures and their objects; shapes of other ``kinds``, which have no area, are left out."""
        index = given.index(word for one in entries for word in (one.file.name, *one.words))
        pictures = [index.find(one.words, one.file.parent) for one in entries]
        if alone := [one for one, picture in zip(entries, pictures, strict=True) if picture is None]:
            told = f'{len(alone)} of {len(entries)} {what} have no picture: {some([one.where for one in alone], 3)}'
            unread = folders.other_endings(given.root, [word for one in alone for word in one.words])
            raise FileNotFoundError(f'--data: {told}.{unread} Add the pictures, or take these out.')
        for entry, picture in zip(entries, filter(None, pictures), strict=True):
            one = Labelled(picture, None, [], given.part_of(entry.file, picture))
            groups = defaultdict[Any, list[Object]](list)
            with named(entry.where):
                if all(side and str(side).strip('0') for side in entry.size.values()):
                    height, width = (int(number(f'{entry.where}: {key}', side)) for key, side in entry.size.items())
                    one.size = height, width
                for place, shape in enumerate(entry.shapes):
                    if not (name := shape.name):
                        raise ValueError(f'--data: {shape.where} has no label. Name it, or take it out.')
                    if shape.kind in kinds:
                        drawn = {'name': name, **_drawn(shape.where, shape, one), **shape.marks}
                        groups[place if shape.group is None else (repr(shape.group), name)].append(drawn)
                    else:
                        self.drop(f'are shapes of the kind {shape.kind:.40}, which has no area', shape.where, name)
                one.objects = [_joined(group, one) for group in groups.values()]
            self.pictures.append(one)

    def add_names(self, root: Path, files: Sequence[str]) -> list[str]:
        """Take the classes from the first of some files that is in the folder, one a line, and return them."""
        for path in [root / name for name in files if (root / name).is_file()][:1]:
            self.classes = folders.lines_of(path)
            self.files.append(path)
            if twice := folders.repeated(self.classes):
                raise ValueError(f'--data: {path} lists {some(twice)} twice. Each class has its own name.')
        return self.classes

    def drop(self, reason: str, where: str, name: str, part: str | None = None) -> None:
        """Leave out an object of a class."""
        self.lost[reason].append(where)
        self.kinds[name] += 1
        self.touched.add(part)

    def content(self, root: Path, pictures: Sequence[Labelled]) -> dict[str, Any]:
        """Return some of the pictures in COCO's form; file names are relative to ``root``."""
        numbers = {name: number for number, name in enumerate(self.names, 1)}
        images, boxes = list[dict[str, Any]](), list[dict[str, Any]]()
        for number, one in enumerate(pictures, 1):
            size = dict(zip(('height', 'width'), one.size or (), strict=False))
            images.append({'file_name': one.name(root), **one.image, 'id': number, **size})
            for drawn in one.objects:
                rest = {key: value for key, value in drawn.items() if key != 'name'}
                boxes.append({**rest, 'id': len(boxes) + 1, 'image_id': number, 'category_id': numbers[drawn['name']]})
        return {
            'images': images,
            'annotations': boxes,
            'categories': [{'id': number, 'name': name} for name, number in numbers.items()],
        }

    @property
    def names(self) -> list[str]:
        """The classes, in their order."""
        found = {drawn['name'] for one in self.pictures for drawn in one.objects} | {*self.kinds}
        return [*self.classes, *sorted(found.difference(self.classes))]


def class_name(where: str, label: Any) -> str:
    """Return the name of a class as a json file writes it; of ``true`` and ``1e3`` the reader keeps no text."""
    if label is not None and type(label) not in (str, int):
        raise ValueError(f'--data: {where}: the name of its class is {label!r:.40}, and no text. Write it in quotes.')
    return '' if label is None else str(label).strip()


def number(where: str, text: Any) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        value = FAR + 1.0
    if not abs(value) <= FAR:
        raise ValueError(f'--data: {where} is {text!r:.60}, no number of a picture. Correct it, or export again.')
    return value


def points_of(where: str, pairs: Any, size: Size | None, least: int = 0) -> list[Point]:
    """Return points, at least so many, in or near a picture of this size."""
    try:
        points = [(float(x), float(y)) for x, y in pairs]
        fault = outline_fault([[value for point in points for value in point]], max(size or (FAR,)))
    except (TypeError, ValueError, OverflowError):
        fault = 'no pairs'
    if fault:
        raise ValueError(f'--data: {where}: its points are {pairs!r:.60}, no pairs of numbers near its picture.')
    if len(points) < least:
        raise ValueError(f'--data: {where}: {len(points)} points make no area. Draw it again, or take it out.')
    return points


def bounds(points: Sequence[Point]) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def from_points(points: Sequence[Point]) -> Object:
    """Return box, area and polygon of some corners."""
    pairs = zip(points, [*points[1:], points[0]], strict=True)
    area = abs(sum(x * below - right * y for (x, y), (right, below) in pairs)) / 2
    return {**from_box(*bounds(points)), 'area': area, 'segmentation': [[value for point in points for value in point]]}


def from_box(left: float, top: float, right: float, bottom: float) -> Object:
    return {'bbox': [left, top, right - left, bottom - top], 'area': (right - left) * (bottom - top), 'iscrowd': 0}


def packed(shape: Any, size: Size) -> Any:
    """Return polygons or a mask of a picture as the run lengths of pycocotools, which does not check them itself."""
    if fault := outline_fault(shape, max(size)):
        raise ValueError(f'an outline {fault}')
    if isinstance(shape, dict) and tuple(shape['size']) != size:
        raise ValueError(f'it has {size_text(size)} pixels, a mask of it {size_text(shape["size"])}')
    if isinstance(shape, dict) and isinstance(shape['counts'], str):
        return shape
    found = coco.frPyObjects(shape, *size)
    return coco.merge(found) if isinstance(found, list) else found


def from_mask(where: str, inside: np.ndarray, left: int, top: int, size: Size) -> Object:
    """Return box, area and run lengths of a mask that fills a box of a picture."""
    height, width = inside.shape
    if left < 0 or top < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError(f'--data: {where} is a mask that reaches beyond its picture. Draw it again.')
    whole = np.zeros(size, np.uint8, order='F')
    whole[top : top + height, left : left + width] = inside
    lengths = coco.encode(whole)
    x, y, w, h = coco.toBbox(lengths).tolist()
    counts = {'size': list(size), 'counts': lengths['counts'].decode()}
    return {**from_box(x, y, x + w, y + h), 'area': float(coco.area(lengths)), 'segmentation': counts}


def _drawn(where: str, shape: Shape, one: Labelled) -> Object:
    """Return box, area and outline of a shape; a box has no outline."""
    if shape.kind == 'box':
        return from_box(*(number(where, value) for point in shape.points for value in point))
    points = points_of(where, shape.points, one.size, _LEAST.get(shape.kind, 2))
    if shape.kind == 'mask':
        size = folders.stored_size(one.picture)  # turned or not; another one may take any memory
        if one.size is None or {*one.size} != {*size}:
            told = f'{size_text(one.size)} pixels' if one.size else 'no height and width'
            raise ValueError(
                f'--data: {where} is a mask, and its file tells {told} of {one.picture}: {size_text(size)}.'
            )
        with named(where, 'Draw it again'):
            return from_mask(where, shape.mask(), round(points[0][0]), round(points[0][1]), one.size)
    if shape.kind == 'circle':
        (x, y), radius = points[0], math.dist(*points[:2])
        angles = [2 * math.pi * corner / _CORNERS for corner in range(_CORNERS)]
        points = [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
    elif shape.kind == 'rectangle':
        left, top, right, bottom = bounds(points)
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return from_points(points_of(where, points, one.size))


def _joined(parts: Sequence[Object], one: Labelled) -> Object:
    """Return one object of several polygons and masks."""
    if len(parts) == 1:
        return parts[0]
    shapes = [part['segmentation'] for part in parts]
    if one.size and any(isinstance(shape, dict) for shape in shapes):
        inside = coco.decode(coco.merge([packed(shape, one.size) for shape in shapes]))
        return {**parts[0], **from_mask('', inside, 0, 0, one.size)}
    boxes = [part['bbox'] for part in parts]
    corners = [corner for x, y, w, h in boxes for corner in ((x, y), (x + w, y + h))]
    rings = [ring for part in parts for ring in part['segmentation']]
    area = sum(part['area'] for part in parts)
    return {**parts[0], **from_box(*bounds(corners)), 'area': area, 'segmentation': rings}


_SLACK = 2  # pixels by which the box of an outline and its bbox may differ, however small the object is


def mend(reading: Reading, stored: bool, drawn: bool) -> None:
    """Mend all pictures of a reading, which are read ``stored`` or as EXIF turns them; count and note the changes.

    ``drawn``: label images are drawn from the outlines.
    """
    parts: dict[str | None, list[Labelled]] = {}
    for one in reading.pictures:
        parts.setdefault(one.part, []).append(one)
    for part, pictures in parts.items():
        with named(reading.file_of(part)):
            _mend_part(reading, part, pictures, stored, drawn)
        for change, count in reading.changes[part].items():
            warning = 'WARNING: ' if 'left out' in change else ''
            reading.notes.append(f'{warning}{reading.file_of(part).name}: {count} {change}')


def _mend_part(reading: Reading, part: str | None, pictures: Sequence[Labelled], stored: bool, drawn: bool) -> None:
    changes, outlined, apart = reading.changes[part], 0, list[str]()
    for one in pictures:
        with opened(one.picture) as image:
            size = size_of(image, stored)
        if one.size is None and reading.origins:
            changes['pictures had no width or height, and get those of their files'] += 1
        if one.size and one.size != size:
            said = f'says that {one.picture.name} has {size_text(one.size)} pixels (height x width); it has'
            raise ValueError(f'it {said} {size_text(size)}, so the boxes do not fit. Correct the label file.')
        one.size = size
    check_shapes([(each, one.size or ()) for one in pictures for each in one.objects])
    reasons = Counter[str]()
    for one in pictures:
        size, kept, seen = one.size or (0, 0), list[Object](), dict[Any, Any]()
        for each in one.objects:
            each = _turned_box(each, changes)
            if not (reason := left_out(each, size)):
                each = _completed(each, changes)
                key, shape = (each['name'], *each['bbox']), each.get('segmentation')
                if key in seen and seen[key] == shape:
                    reason = 'have class, box and outline of another one'
                seen.setdefault(key, shape)
            if not reason and has_mask(each):
                if isinstance(shape, dict) and tuple(shape['size']) != size:
                    told = f'{one.picture} has {size_text(size)} pixels, a mask of it {size_text(shape["size"])}'
                    if drawn:
                        raise ValueError(f'--data: {told}. Draw it again.')
                    reading.misfits.setdefault(part, told)
                else:
                    packing = packed(shape, size) if drawn or isinstance(shape, dict) else None
                    if drawn and not coco.area(packing):
                        reason = 'have an outline without a pixel'
                    elif not _fits(each['bbox'], shape, packing):
                        apart.append(one.picture.name)
                    outlined += not reason
            if reason:
                reasons[reason] += 1
                reading.drop(reason, str(one.picture), each['name'], part)
            else:
                kept.append(each)
        one.objects = kept
    every = [each for one in pictures for each in one.objects]
    if reasons and not every:
        raise ValueError(f'all {reasons.total()} annotations {next(iter(reasons))}.')
    if apart:
        told = f'{len(apart)} of {outlined} outlines and their bbox overlap by less than half ({some(apart, 3)})'
        if len(apart) > outlined / 2:
            how = 'both are in pixels of the picture, a bbox is [left, top, width, height], run lengths go down columns'
            raise ValueError(f'{told}, so one of both is wrong: {how}. Correct them, or take out the wrong ones.')
        reading.notes.append(f'WARNING: {reading.file_of(part).name}: {told}: one of both is wrong')
    if reading.origins and wrong_ids(every):
        changes['annotations are numbered from 1: an id was 0, missing, or there twice'] += len(every)


def _turned_box(one: Object, changes: Counter[str]) -> Object:
    """Return an object of CVAT, which exports the box before it was turned, with the box around the turned one."""
    marks = one.get('attributes')
    turn: Any = marks.get('rotation') if isinstance(marks, dict) and not has_mask(one) else None
    if type(turn) not in (int, float) or not turn % 360:
        return one
    changes['boxes are turned (rotation in attributes): the box around the turned one is taken'] += 1
    x, y, w, h = one['bbox']
    cosine, sine = abs(math.cos(math.radians(turn))), abs(math.sin(math.radians(turn)))
    width, height = w * cosine + h * sine, w * sine + h * cosine
    return {**one, 'bbox': [x + (w - width) / 2, y + (h - height) / 2, width, height]}


def _completed(one: Object, changes: Counter[str]) -> Object:
    """Return an object with what it lacks. mmdet trains without those marked by ``ignore``."""
    found, shape = dict[str, Any](), one.get('segmentation')
    if not has_area(one):
        changes['annotations had no area, and get width times height of their box'] += 1
        found['area'] = one['bbox'][2] * one['bbox'][3]
    if isinstance(shape, list) and has_mask(one) and any(map(is_line, shape)):
        changes['outlines had parts of fewer than three points: left out'] += 1
        found['segmentation'] = [each for each in shape if not is_line(each)]
    if one.get('ignore'):
        changes['annotations had the mark ignore, and get iscrowd, which training and metric both read'] += 1
        found |= {'iscrowd': 1, 'ignore': 0}
    elif one.get('iscrowd') is None:
        changes['annotations had no iscrowd, and get 0'] += 1
        found['iscrowd'] = 0
    return {**one, **found} if found else one


def _fits(bbox: Sequence[float], shape: Any, packing: Any) -> bool:
    """Tell whether the box of an outline is about the bbox."""
    if isinstance(shape, dict):
        x, y, w, h = coco.toBbox(packing).tolist()
        other = x, y, x + w, y + h
    else:
        other = bounds([point for part in shape for point in zip(part[::2], part[1::2], strict=True)])
    own = bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]
    sides = [min(own[end], other[end]) - max(own[end - 2], other[end - 2]) for end in (2, 3)]
    areas = ((right - left) * (bottom - top) for left, top, right, bottom in (own, other))
    shared = max(sides[0], 0) * max(sides[1], 0)
    near = all(abs(one - two) <= _SLACK for one, two in zip(own, other, strict=True))
    return near or 3 * shared >= sum(areas)
