"""What every reader is given and gives: pictures with their objects, from which a content in COCO's form is made.

A reader has ``recognise(given)``, which returns its files, empty if the folder is of another format, and
``read(given, files)``, which returns a :class:`Reading`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from pycocotools import mask as coco

from mmdistill_dense.apps.project.picture_folders import Names, Size, lines_of, outside_labels, repeated, split_of
from mmdistill_dense.utils.validate import some

_CORNERS = 72  # of an ellipse
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
        return next(filter(None, (split_of(file.relative_to(self.root).parts[:-1]) for file in files)), None)

    def index(self, words: Iterable[str]) -> Names:
        """Return the pictures that words of label files may name; labelme writes others beside its files.

        Those in a folder of label images count only if none in it has the name of another one.
        """
        stems = {PureWindowsPath(word).stem for word in words}
        named = [one for one in self.pictures if one.stem in stems]
        outside = outside_labels(self.root, named)
        inside, known = {*named} - {*outside}, {one.stem for one in outside}
        labels = {one.parent for one in inside if one.stem in known}
        return Names(self.root, [one for one in named if one.parent not in labels], self.pictures)

    def pictures_of(self, names: Mapping[Path, Sequence[str]], kind: str) -> dict[Path, Path]:
        """Return the picture of each label file: the one whose name is among the file's ``names``."""
        index = self.index(word for file, words in names.items() for word in (file.name, *words))
        found = {file: index.find(words, file.parent) for file, words in names.items()}
        if alone := [file for file, picture in found.items() if picture is None]:
            told = f'{len(alone)} of {len(found)} {kind} have no picture: {some(alone, 3)}'
            raise FileNotFoundError(f'--data: {told}. Add the pictures, or take these files out.')
        return {file: picture for file, picture in found.items() if picture is not None}


@dataclass
class Labelled:
    picture: Path
    size: Size | None  # as its labels say; ``None``: not told
    objects: list[Object]
    part: str | None = None  # where the labels tell it


@dataclass
class Reading:
    """What a reader found in a folder."""

    form: str  # the name of the format
    source: Path  # a label file, or the folder that holds all of them
    pictures: list[Labelled] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)  # as the format orders them; others follow by name
    dropped: Counter[str] = field(default_factory=Counter)  # what cannot be read as an area, with how often
    notes: list[str] = field(default_factory=list)

    def content(self, root: Path, pictures: Sequence[Labelled]) -> dict[str, Any]:
        """Return some of the pictures in COCO's form; file names are relative to ``root``."""
        numbers = {name: number for number, name in enumerate(self.names, 1)}
        images, boxes = list[dict[str, Any]](), list[dict[str, Any]]()
        for number, one in enumerate(pictures, 1):
            size = {} if one.size is None else dict(zip(('height', 'width'), one.size, strict=True))
            images.append({'id': number, 'file_name': one.picture.relative_to(root).as_posix(), **size})
            for drawn in one.objects:
                rest = {key: value for key, value in drawn.items() if key != 'name'}
                ids = {'id': len(boxes) + 1, 'image_id': number, 'category_id': numbers[drawn['name']]}
                boxes.append({**ids, 'iscrowd': 0, **rest})
        return {
            'images': images,
            'annotations': boxes,
            'categories': [{'id': number, 'name': name} for name, number in numbers.items()],
        }

    @property
    def names(self) -> list[str]:
        """The classes, in their order."""
        found = {drawn['name'] for one in self.pictures for drawn in one.objects}
        return [*self.classes, *sorted(found.difference(self.classes))]

    @property
    def told(self) -> list[str]:
        """What the user should know."""
        lost = [f'WARNING: {count} {what}: left out' for what, count in self.dropped.items()]
        objects = sum(len(one.objects) for one in self.pictures)
        bare = sum(not one.objects for one in self.pictures)
        read = f'{self.form}: {objects} objects in {len(self.pictures)} pictures, {bare} of them without any'
        return [f'{read} ({self.source})', *lost, *self.notes]


def number(where: str, text: Any) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f'--data: {where} is {text!r}, no number. Correct it, or export the labels again.')
    return value


def points_of(where: str, pairs: Iterable[Any]) -> list[Point]:
    listed = list(pairs)
    try:
        points = [(float(x), float(y)) for x, y in listed]
    except (TypeError, ValueError):
        points = [(math.nan, math.nan)]
    if not all(math.isfinite(value) for point in points for value in point):
        raise ValueError(f'--data: {where}: its points are {listed!r:.60}, no pairs of numbers. Draw it again.')
    return points


def check_count(where: str, points: Sequence[Point], least: int, what: str) -> None:
    if len(points) < least:
        raise ValueError(f'--data: {where}: {len(points)} points make no {what}. Draw it again, or take it out.')


def bounds(points: Sequence[Point]) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def from_points(points: Sequence[Point]) -> Mapping[str, Any]:
    """Return box, area and polygon of some corners."""
    pairs = zip(points, [*points[1:], points[0]], strict=True)
    area = abs(sum(x * below - right * y for (x, y), (right, below) in pairs)) / 2
    return {
        **from_box(*bounds(points)),
        'area': area,
        'segmentation': [[value for point in points for value in point]],
    }


def from_box(left: float, top: float, right: float, bottom: float) -> Mapping[str, Any]:
    return {'bbox': [left, top, right - left, bottom - top], 'area': (right - left) * (bottom - top)}


def packed(shape: Any, size: Size) -> Any:
    """Return polygons or a mask of a picture as the run lengths of pycocotools."""
    if isinstance(shape, dict) and isinstance(shape['counts'], str):
        return shape
    found = coco.frPyObjects(shape, *size)
    return coco.merge(found) if isinstance(found, list) else found


def from_mask(where: str, inside: np.ndarray, left: int, top: int, size: Size) -> Mapping[str, Any]:
    """Return box, area and run lengths of a mask that fills a box of a picture."""
    height, width = inside.shape
    if left < 0 or top < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError(f'--data: {where} is a mask that reaches beyond its picture. Draw it again.')
    whole = np.zeros(size, np.uint8, order='F')
    whole[top : top + height, left : left + width] = inside
    lengths = coco.encode(whole)
    counts = {'size': list(size), 'counts': lengths['counts'].decode()}
    return {'bbox': coco.toBbox(lengths).tolist(), 'area': float(coco.area(lengths)), 'segmentation': counts}


def circle(x: float, y: float, a: float, b: float) -> list[Point]:
    """Return corners of an ellipse with these radii."""
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    return list(zip((x + a * np.cos(angles)).tolist(), (y + b * np.sin(angles)).tolist(), strict=True))


def listed_names(root: Path, files: Sequence[str]) -> tuple[list[str], str]:
    """Return the names in the first of some files that is in the folder, one a line, and the file's name."""
    for name in files:
        if (root / name).is_file():
            found = lines_of(root / name)
            if twice := repeated(found):
                raise ValueError(f'--data: {root / name} lists {some(twice)} twice. Each class has its own name.')
            return found, name
    return [], ''
