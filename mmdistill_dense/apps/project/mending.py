"""Make of what was read a set of labels that training and metric read alike: objects left out, completed, compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pycocotools import mask as coco

from mmdistill_dense.apps.project.formats.objects import Labelled, Object, Reading, bounds, packed
from mmdistill_dense.apps.project.picture_folders import named, opened, size_of
from mmdistill_dense.datasets.label_files import check_shapes, has_area, has_mask, is_line, left_out, wrong_ids
from mmdistill_dense.utils.validate import size_text, some

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
