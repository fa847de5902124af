"""Make of a label file one that training and metric read alike: what is left out, completed or numbered anew."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pycocotools import mask as coco

from mmdistill_dense.apps.project.formats.objects import bounds, packed
from mmdistill_dense.apps.project.picture_folders import Size
from mmdistill_dense.datasets.label_files import Content, check_shapes, has_area, has_mask, is_line, left_out, wrong_ids
from mmdistill_dense.utils.validate import some

_SLACK = 2  # pixels by which the box of an outline and its bbox may differ, however small the object is


def mended(
    content: Content, size_of: Callable[[str], Size], drawn: bool
) -> tuple[Content, list[str], dict[str, list[str]]]:
    """Return the content, lines that tell its changes, and the pictures of annotations that are left out, by reason.

    ``content`` has passed the check of its keys, and is given back itself if nothing changes. ``size_of`` gives height
    and width of a picture from its ``file_name``; ``drawn``: whether label images are drawn from the outlines.
    """
    changes, lost = Counter[str](), defaultdict[str, list[str]](list)
    pictures: dict[str, dict[str, Any]] = {}
    by_id: dict[Any, dict[str, Any]] = {}
    for one in content['images']:
        name = one['file_name']
        if name in pictures:
            changes['entries of images name a picture that is listed before; their boxes are joined'] += 1
        elif one.get('width') is None or one.get('height') is None:
            changes['pictures had no width or height, and get those of their files'] += 1
            one = {**one, **dict(zip(('height', 'width'), size_of(name), strict=True))}
        by_id[one['id']] = pictures.setdefault(name, one)
    check_shapes({**content, 'images': [{**one, 'id': number} for number, one in by_id.items()]})
    kept, seen, outlined, apart = [], dict[Any, Any](), 0, list[str]()
    for one in content['annotations']:
        shape: Any
        if not (reason := left_out(one, by_id)):
            picture = by_id[one['image_id']]
            size = picture['height'], picture['width']
            found = _completion(one, picture['id'], changes)
            one = {**one, **found} if found else one  # most have nothing to complete
            key, shape = (one['image_id'], one['category_id'], *one['bbox']), one.get('segmentation')
            if key in seen and seen[key] == shape:
                reason = 'have class, box and outline of another one'
            seen.setdefault(key, shape)
            if has_mask(one) and (isinstance(shape, list) or tuple(shape['size']) == size):
                packing = packed(shape, size) if drawn or isinstance(shape, dict) else None
                reason = reason or ('have an outline without a pixel' if drawn and not coco.area(packing) else '')
                outlined += not reason
                if not reason and not _fits(one['bbox'], shape, packing):
                    apart.append(picture['file_name'])
        if reason:
            lost[reason].append(by_id.get(one['image_id'], {}).get('file_name', f'image_id {one["image_id"]!r}'))
        else:
            kept.append(one)
    if lost and not kept:
        raise ValueError(f'all {len(content["annotations"])} annotations {next(iter(lost))}.')
    notes = []
    if apart:
        told = f'{len(apart)} of {outlined} outlines and their bbox overlap by less than half ({some(apart, 3)})'
        if len(apart) > outlined / 2:
            how = 'both are in pixels of the picture, a bbox is [left, top, width, height], run lengths go down columns'
            raise ValueError(f'{told}, so one of both is wrong: {how}. Correct them, or take out the wrong ones.')
        notes.append(f'{told}: one of both is wrong')
    if wrong_ids(kept):
        changes['annotations are numbered from 1: an id was 0, missing, or there twice'] = len(kept)
        kept = [{**one, 'id': number} for number, one in enumerate(kept, 1)]
    categories = _without_twins(content['categories'], {one['category_id'] for one in kept})
    if twins := len(content['categories']) - len(categories):
        changes['categories without a box had the name of another one, and are taken out'] = twins
    if any(type(one['id']) is str for one in categories):
        changes['categories are numbered from 1: their ids were texts'] = len(categories)
        numbers = {one['id']: number for number, one in enumerate(categories, 1)}
        categories = [{**one, 'id': numbers[one['id']]} for one in categories]
        kept = [{**one, 'category_id': numbers[one['category_id']]} for one in kept]
    notes += [f'{count} {change}' for change, count in changes.items()]
    clean = {'images': list(pictures.values()), 'annotations': kept, 'categories': categories}
    return clean if lost or changes else content, notes, lost


def _fits(bbox: Sequence[float], shape: Any, packing: Any) -> bool:
    """Tell whether the box of an outline is about the bbox."""
    if isinstance(shape, dict):
        x, y, w, h = coco.toBbox(packing).tolist()
        other = x, y, x + w, y + h
    else:
        other = bounds([point for part in shape for point in zip(part[::2], part[1::2], strict=True)])
    own = bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]
    if all(abs(one - two) <= _SLACK for one, two in zip(own, other, strict=True)):
        return True
    both = (min(own[2], other[2]) - max(own[0], other[0])), (min(own[3], other[3]) - max(own[1], other[1]))
    shared = max(both[0], 0) * max(both[1], 0)
    areas = ((right - left) * (bottom - top) for left, top, right, bottom in (own, other))
    return 2 * shared >= sum(areas) - shared


def _without_twins(categories: Sequence[Content], used: Collection[Any]) -> list[Content]:
    """Return one category of each name, and all that have boxes. The group that Roboflow writes first has none."""
    chosen = {one['name']: one['id'] for one in sorted(categories, key=lambda one: one['id'] in used)}
    return [one for one in categories if one['id'] in {*used, chosen[one['name']]}]


def _completion(one: Content, picture: Any, changes: Counter[str]) -> dict[str, Any]:
    """Return what an annotation lacks, of a picture with this id. mmdet trains without those marked by ``ignore``."""
    found = {} if one['image_id'] == picture else {'image_id': picture}
    if not has_area(one):
        changes['annotations had no area, and get width times height of their box'] += 1
        found['area'] = one['bbox'][2] * one['bbox'][3]
    shape = one.get('segmentation')
    if isinstance(shape, list) and has_mask(one) and any(map(is_line, shape)):
        changes['outlines had parts of fewer than three points: left out'] += 1
        found['segmentation'] = [part for part in shape if not is_line(part)]
    if one.get('ignore'):
        changes['annotations had the mark ignore, and get iscrowd, which training and metric both read'] += 1
        found |= {'iscrowd': 1, 'ignore': 0}
    elif one.get('iscrowd') is None:
        changes['annotations had no iscrowd, and get 0'] += 1
        found['iscrowd'] = 0
    return found
