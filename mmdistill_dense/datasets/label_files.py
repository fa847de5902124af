"""What a label file in COCO's format must hold, and which of its entries mmdet trains without.

Its metric counts some of these as missed. So ``new`` writes a file without them, which both then read, and
``CocoDataset`` tells what the metric will count.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mmdistill_dense.utils.validate import some

Content = Mapping[str, Any]
MENDED = ('images.width', 'images.height', 'annotations.id', 'annotations.area', 'annotations.iscrowd')
_FORM = 'A bbox is [left, top, width, height] in pixels'
FAR = 10**6  # no number of a box or an outline is larger: pycocotools and OpenCV check none


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


_ID = (lambda value: type(value) is str or (_is_number(value) and math.isfinite(value))), 'a number or a text'
_NAME = (lambda value: type(value) is str and value != '' and '\0' not in value), 'a text'
_SIZE = (lambda value: _is_number(value) and 0 < value < math.inf), 'a number above 0'
_AREA = _is_number, 'a number'
_FLAG = (lambda value: type(value) in (bool, int, float) and value in (0, 1)), '0 or 1'
_BOX = (
    (lambda value: type(value) is list and len(value) == 4 and all(map(_is_number, value))),
    ('a list of four numbers (left, top, width, height)'),
)
_ENTRIES: Mapping[str, Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    'images': {'id': _ID, 'file_name': _NAME, 'width': _SIZE, 'height': _SIZE},
    'annotations': {'id': _ID, 'image_id': _ID, 'category_id': _ID, 'bbox': _BOX, 'area': _AREA, 'iscrowd': _FLAG},
    'categories': {'id': _ID, 'name': _NAME},
}


def lists_missing(content: Any) -> list[str]:
    return [kind for kind in _ENTRIES if not isinstance(content, dict) or not isinstance(content.get(kind), list)]


def check_categories(content: Any, may_lack: Collection[str] = ()) -> None:
    """Raise a ValueError that names an entry, unless all have known ids, boxes in pixels, and keys but ``may_lack``."""
    if missing := lists_missing(content):
        problem = f'it has {some(content)}, but has no list of {missing[0]}'
        raise ValueError(f'it is not in the json format of COCO: {problem}.')
    for kind, keys in _ENTRIES.items():
        for number, entry in enumerate(content[kind]):
            if fault := _fault(entry, kind, keys, may_lack):
                raise ValueError(f'{kind}[{number}]{fault}. Each entry of {kind} is a dict of {", ".join(keys)}.')
    pictures = _by_id(content, 'images', 'file_name')
    categories = _by_id(content, 'categories', 'name')
    if 'annotations.id' not in may_lack and any(type(number) is str for number in categories):
        raise ValueError('the ids of categories are texts, which the metric does not read. Number them from 1.')
    _check_known(content['annotations'], 'category_id', categories, 0)
    _check_known(content['annotations'], 'image_id', pictures, max(0, len(content['annotations']) - 1))
    if 'images.width' not in may_lack:
        sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
        check_shapes([(box, sizes[box['image_id']]) for box in content['annotations'] if box['image_id'] in sizes])


def _fault(entry: Any, kind: str, keys: Mapping[str, Any], may_lack: Collection[str]) -> str:
    if not isinstance(entry, dict):
        return f' is {entry!r:.40}'
    for key, (fits, expected) in keys.items():
        value, lacks = entry.get(key), f'{kind}.{key}' in may_lack
        if value is None and not lacks:
            return f' has no {key}'
        if value is not None and not fits(value):
            return f'.{key} is {value!r:.40}, not {expected}'
    return ''


def _by_id(content: Content, kind: str, name: str) -> dict[Any, str]:
    """Return names by id; raise for two of one id, of which pycocotools would keep the last."""
    names: dict[Any, str] = {}
    for entry in content[kind]:
        if (other := names.setdefault(entry['id'], entry[name])) != entry[name]:
            problem = f'two {kind} have the id {entry["id"]!r}: {other} and {entry[name]}'
            raise ValueError(f'{problem}. Give each its own id, and write it into the annotations too.')
    if len({type(number) is str for number in names}) > 1:
        raise ValueError(f'some ids of {kind} are texts, others are numbers. Write all in one way.')
    return names


def _check_known(annotations: Collection[Content], key: str, names: Mapping[Any, str], allowed: int) -> None:
    strays = [annotation[key] for annotation in annotations if annotation[key] not in names]
    if len(strays) <= allowed:
        return
    kind = 'a text' if type(strays[0]) is str else 'a number'
    other = f' It is {kind} here and not there: write both in one way.' if str(strays[0]) in map(str, names) else ''
    problem = f'{len(strays)} of {len(annotations)} annotations have an unknown {key}: {strays[0]!r}'
    raise ValueError(f'{problem}; the ids are {some(map(repr, names)) or "none"}.{other}')


def check_shapes(shapes: Sequence[tuple[Content, Sequence[float]]]) -> None:
    """Refuse boxes that are fractions of the picture, or two corners, and outlines with numbers of no picture.

    ``shapes``: annotations, each with the height and width of its picture.
    """
    boxes = [
        (x + w, y + h, width, height)
        for (x, y, w, h), (height, width) in ((annotation['bbox'], size) for annotation, size in shapes)
        if min(w, h) > 0 and x < width and y < height and math.isfinite(x + y + w + h)
    ]
    if boxes and max(max(right, bottom) for right, bottom, _, _ in boxes) <= 1:
        raise ValueError(f'all boxes are fractions of the picture: none reaches beyond 1. {_FORM}.')
    beyond = sum(right > width + 1 or bottom > height + 1 for right, bottom, width, height in boxes)
    if beyond > len(boxes) / 2:
        problem = f'{beyond} of {len(boxes)} boxes reach beyond their picture. {_FORM}, not two corners'
        raise ValueError(f'{problem}; width and height of each picture must be those of its file.')
    for annotation, size in shapes:
        if fault := outline_fault(annotation.get('segmentation'), max(size)):
            ids = ', '.join(f'{key} {annotation[key]!r}' for key in ('id', 'image_id') if key in annotation)
            raise ValueError(f'the segmentation of an annotation ({ids}) {fault}. Draw it again, or take it out.')


def outline_fault(shape: Any, side: float) -> str:
    """Return what is wrong with the numbers of an outline, of a picture whose larger side is ``side``."""
    side = min(side, FAR)
    try:
        for part in [part for part in shape if isinstance(part, list) and part] if isinstance(shape, list) else ():
            if not (-side <= min(part) and max(part) <= 2 * side) or math.isnan(sum(part)):
                return f'has a point far beyond its picture, or one that is no number ({part!r:.60})'
        if isinstance(shape, dict) and isinstance(shape.get('counts'), (str, list)):
            runs = run_lengths(shape['counts'])
            if runs is None or min(runs, default=0) < 0 or sum(runs) != math.prod(shape['size']):
                return 'has run lengths that do not fill its size'
    except (TypeError, KeyError):
        return f'holds what is no number ({shape!r:.60})'
    return ''


def run_lengths(counts: str | list[Any]) -> list[int] | None:
    """Return the numbers of run lengths, which may be written as a text; ``None`` if they are no whole numbers."""
    if isinstance(counts, list):
        return counts if all(type(run) is int for run in counts) else None
    if not re.fullmatch('(?:[P-o]{0,6}[0-O])+', counts):
        return None
    runs: list[int] = []
    for word in re.findall('[P-o]*[0-O]', counts):  # five bits a letter; the fourth and later are differences
        value = sum((ord(letter) - 48 & 31) << 5 * position for position, letter in enumerate(word))
        value -= (ord(word[-1]) - 48 & 16) << 5 * len(word) - 4
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def left_out(annotation: Content, size: Sequence[float]) -> str:
    """Return why mmdet trains without an annotation of a picture (height, width), other than its area, or nothing."""
    x, y, width, height = annotation['bbox']
    if not all(abs(value) <= FAR for value in annotation['bbox']):
        return f'have a bbox with NaN, infinity or a number above {FAR}'
    if width < 1 or height < 1:
        return 'have a bbox (left, top, width, height) without width or height, less than a pixel'
    if min(x + width, size[1]) <= max(x, 0) or min(y + height, size[0]) <= max(y, 0):
        return 'have a bbox outside their picture'
    return ''


def has_area(annotation: Content) -> bool:
    """Tell whether an annotation has an area; mmdet trains without it otherwise."""
    return 0 < (annotation.get('area') or 0) < math.inf


def wrong_ids(annotations: Collection[Content]) -> bool:
    """Tell whether the metric confuses annotations by their ids: it reads a match with the id 0 as none."""
    ids = {annotation.get('id') for annotation in annotations}
    return len(ids - {0, None}) < len(annotations) or any(type(number) is str for number in ids)


def has_mask(annotation: Content) -> bool:
    """Tell whether an annotation has polygons, perhaps lines beside them, or a mask in run lengths."""
    shape = annotation.get('segmentation') or []
    if isinstance(shape, dict):
        return isinstance(shape.get('size'), list) and isinstance(shape.get('counts'), (str, list))
    parts = [part for part in shape if not is_line(part)] if isinstance(shape, list) else []
    return parts != [] and all(isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 for part in parts)


def is_line(part: Any) -> bool:
    """Tell whether a part of an outline is a line, a point or nothing: mmdet leaves it out, pycocotools may fail."""
    return isinstance(part, list) and len(part) in (0, 2, 4)
