"""Read label files in COCO's format. Errors say which entry is wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdistill_dense.project.open_pictures import SAMPLED, opened, size_of, size_text
from mmdistill_dense.project.picture_folders import files_below
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.messages import some

_NEEDED = {
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'),
    'categories': ('id', 'name'),
}
_OTHERS = {'.xml': 'VOC', '.txt': 'YOLO'}  # formats of label files that a folder may hold instead
FORMAT = (
    'Detection needs json files in the format of COCO, with images, annotations and categories: one for each split, '
    'with train, val or test in its name or folder, or one for all. Tools that label pictures can export it.'
)


def read_label_file(path: Path) -> dict[str, Any] | None:
    """Return the content of a label file; ``None`` for another json file.

    Raises:
        ValueError: For a damaged file, or one with boxes that lacks pictures or categories.
    """
    content = _read(path)
    if not isinstance(content, dict):
        return None
    lacking = [key for key in _NEEDED if not isinstance(content.get(key), list)]
    boxes = content.get('annotations')
    if lacking and isinstance(boxes, list) and boxes and isinstance(boxes[0], dict) and 'bbox' in boxes[0]:
        raise ValueError(f'--data: {_lacks(path)} {FORMAT}')
    return None if lacking else content


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f'--data: {path} is damaged, or no json file ({error}). Repair it, or take it out of the folder.'
        ) from error


def none_found(root: Path, files: Sequence[Path]) -> str:
    """Return a sentence about what the folder holds, for a folder without label files."""
    if files:
        return f'no label file. {" ".join(_lacks(path) for path in files[:2])}'
    counts = Counter(path.suffix for path in files_below(root, tuple(_OTHERS)) if path.name != 'classes.txt')
    others = [
        f'{count} {ending} files: convert labels of {_OTHERS[ending]} to COCO.' for ending, count in counts.items()
    ]
    if not others and any('label' in path.name or 'mask' in path.name for path in root.iterdir()):
        others = ['Label images are for networks of mmseg::.']
    return ' '.join(['no json file.', *others])


def _lacks(path: Path) -> str:
    content = _read(path)
    if not isinstance(content, dict):
        return f'{path.name} holds a {type(content).__name__}.'
    lacking = [key for key in _NEEDED if not isinstance(content.get(key), list)]
    return f'{path.name} has {some(content)}, but no list of {", ".join(lacking)}.'


def check_entries(path: Path, content: Mapping[str, Any]) -> Iterator[str]:
    """Check every entry of a label file. Yield a warning for entries that the training skips.

    Raises:
        ValueError: For entries without a key that is needed, or if no box belongs to a picture or has an area.
    """
    for kind, keys in _NEEDED.items():
        for key in keys:
            without = sum(one.get(key) is None for one in content[kind])
            if without:
                raise ValueError(
                    f'--data: {path}: {without} of {len(content[kind])} {kind} have no {key}. Each of them needs '
                    f'{", ".join(keys)}.'
                )
    boxes = content['annotations']
    numbers = {one['id'] for one in content['images']}
    stray = sum(one['image_id'] not in numbers for one in boxes)
    empty = sum(min(one['bbox'][2:], default=0) <= 0 for one in boxes)
    reasons = (
        (stray, 'have an image_id that is the id of no picture'),
        (empty, 'have no width or height (a bbox is x, y, width, height)'),
    )
    for count, reason in reasons:
        if count and count == len(boxes):
            raise ValueError(f'--data: {path}: all {count} annotations {reason}.')
        if count:
            yield f'WARNING: {count} of {len(boxes)} annotations of {path.name} {reason}; they are left out'


def check_sizes(path: Path, folder: Path, images: Sequence[Mapping[str, Any]], stored: bool) -> None:
    """Compare the sizes of some pictures, ``stored`` or as EXIF turns them, with those in the label file.

    Raises:
        ValueError: For a picture that cannot be read, or that has another size.
    """
    for one in evenly(images, SAMPLED):
        with opened(folder / one['file_name']) as picture:
            picture.load()
            found, written = size_of(picture, stored), (one['height'], one['width'])
        if found != written:
            raise ValueError(
                f'--data: {path} says that {one["file_name"]} has {size_text(written)} pixels (height x width); it '
                f'has {size_text(found)}, so the boxes do not fit. Correct the label file, or take its own '
                'pictures.'
            )
