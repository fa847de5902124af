"""VOC's xml files: one a picture, boxes between corners that are counted from 1, by some tools from 0."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmdistill_dense.apps.project.formats.objects import Labelled, Object, Reading, from_box, listed_names
from mmdistill_dense.apps.project.parts import Names
from mmdistill_dense.apps.project.picture_folders import Size, files_below, split_of
from mmdistill_dense.utils.messages import some

FORM = 'VOC xml'
NAMES = ('classes.txt', 'labels.txt')


def recognise(root: Path) -> list[Path]:
    """Return the xml files, or none if the first is of another kind."""
    files = sorted(files_below(root, ('.xml',)))
    return files if files and root_of(files[0]).tag == 'annotation' else []


def root_of(path: Path) -> Any:
    """Return the outermost element of an xml file."""
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f'--data: {path} is damaged, or no xml file ({error}). Repair it, or take it out.') from error


def read(root: Path, files: Sequence[Path], pictures: Sequence[Path]) -> Reading:
    """Read all files. Objects marked as difficult are ignored in training and scores, as VOC does."""
    found = Reading(FORM, files[0].parent, classes=listed_names(root, NAMES)[0])
    index, alone, from_zero = Names(root, pictures), list[Path](), False
    for path in files:
        element = root_of(path)
        picture = index.find([name for name in (path.stem, element.findtext('filename')) if name])
        if picture is None:
            alone.append(path)
            continue
        objects = [_object(path, number, one) for number, one in enumerate(element.iterfind('object'), 1)]
        from_zero = from_zero or any(0 in one['bbox'][:2] for one in objects)
        part = split_of(path.relative_to(root).parts[:-1]) or split_of(picture.relative_to(root).parts[:-1])
        found.pictures.append(Labelled(picture, _size(path, element), objects, part))
    if alone:
        raise FileNotFoundError(
            f'--data: {len(alone)} of {len(files)} xml files have no picture of their name: {some(alone, 3)}. Add the '
            'pictures, or take these files out.'
        )
    if from_zero:
        found.notes.append('a box begins at 0, so its corners are counted from 0; VOC itself counts from 1')
    else:
        for drawn in (drawn for one in found.pictures for drawn in one.objects):
            drawn['bbox'] = [drawn['bbox'][0] - 1, drawn['bbox'][1] - 1, *drawn['bbox'][2:]]
    return found


def _size(path: Path, element: Any) -> Size | None:
    texts = [element.findtext(f'size/{side}') for side in ('height', 'width')]
    if None in texts or '0' in texts:  # some tools write 0
        return None
    height, width = (_number(path, 'size', text) for text in texts)
    return int(height), int(width)


def _object(path: Path, number: int, element: Any) -> Object:
    where = f'object {number}'
    name = (element.findtext('name') or '').strip()
    if not name:
        raise ValueError(f'--data: {path}: {where} has no name. Name it, or take it out.')
    sides = [element.findtext(f'bndbox/{side}') for side in ('xmin', 'ymin', 'xmax', 'ymax')]
    if None in sides:
        raise ValueError(f'--data: {path}: {where} ({name}) has no bndbox with xmin, ymin, xmax, ymax. Draw its box.')
    left, top, right, bottom = (_number(path, where, side) for side in sides)
    if right <= left or bottom <= top:
        raise ValueError(f'--data: {path}: {where} ({name}): xmax must be above xmin, and ymax above ymin.')
    difficult = (element.findtext('difficult') or '0').strip() == '1'
    return {'name': name, **from_box(left, top, right, bottom), 'iscrowd': int(difficult)}


def _number(path: Path, where: str, text: Any) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'--data: {path}: {where}: {text!r} is no number.') from None
