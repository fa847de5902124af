"""What every reader gives: pictures with their objects, from which a content in COCO's form is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from mmdistill_dense.apps.project.picture_folders import Size
from mmdistill_dense.utils.messages import some

_CORNERS = 72  # of an ellipse
Object = dict[str, Any]  # an annotation of COCO with the ``name`` of its class in place of numbers


@dataclass
class Labelled:
    """A picture and what is drawn in it."""

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


def from_points(points: Sequence[tuple[float, float]]) -> Mapping[str, Any]:
    """Return box, area and polygon of some corners."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, top = min(xs), min(ys)
    pairs = zip(points, [*points[1:], points[0]], strict=True)
    area = abs(sum(x * below - right * y for (x, y), (right, below) in pairs)) / 2
    return {
        'bbox': [left, top, max(xs) - left, max(ys) - top],
        'area': area,
        'segmentation': [[value for point in points for value in point]],
    }


def from_box(left: float, top: float, right: float, bottom: float) -> Mapping[str, Any]:
    """Return box and area of two corners."""
    return {'bbox': [left, top, right - left, bottom - top], 'area': (right - left) * (bottom - top)}


def from_mask(where: str, inside: np.ndarray, left: int, top: int, size: Size) -> Mapping[str, Any]:
    """Return box, area and run lengths of a mask that fills a box of a picture."""
    height, width = inside.shape
    if left < 0 or top < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError(f'--data: {where} is a mask that reaches beyond its picture. Draw it again.')
    whole = np.zeros(size, np.uint8, order='F')
    whole[top : top + height, left : left + width] = inside
    packed = coco.encode(whole)
    counts = {'size': list(size), 'counts': packed['counts'].decode()}
    return {'bbox': coco.toBbox(packed).tolist(), 'area': float(coco.area(packed)), 'segmentation': counts}


def circle(x: float, y: float, a: float, b: float) -> list[tuple[float, float]]:
    """Return corners of an ellipse with these radii."""
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    return list(zip((x + a * np.cos(angles)).tolist(), (y + b * np.sin(angles)).tolist(), strict=True))


def listed_names(root: Path, files: Sequence[str]) -> tuple[list[str], str]:
    """Return the names in the first of some files that is in the folder, one a line, and the file's name."""
    for name in files:
        if (root / name).is_file():
            lines = (root / name).read_text(encoding='utf-8-sig').splitlines()
            found = [line.strip() for line in lines if line.strip()]
            if twice := [one for one, count in Counter(found).items() if count > 1]:
                raise ValueError(f'--data: {root / name} lists {some(twice)} twice. Each class has its own name.')
            return found, name
    return [], ''
