"""Read label files in COCO's format. Errors say which entry is wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmdistill_dense.datasets.coco_file import MENDED, Content, check, lists_missing, mended
from mmdistill_dense.project.open_pictures import SAMPLED, opened, size_of, size_text
from mmdistill_dense.project.picture_folders import files_below
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.messages import some

_OTHERS = {  # formats of label files that a folder may hold instead, and the words for labelformat
    '.xml': ('VOC', 'pascalvoc --input-folder FOLDER_OF_XML --category-names NAME,NAME'),
    '.txt': ('YOLO', 'yolov8 --input-file data.yaml'),
}
_LISTS = {'ImageSets', 'classes.txt'}  # of VOC and YOLO: no label files
FORMAT = (
    'Detection needs json files in the format of COCO, with images, annotations and categories: one for each split, '
    'with train, val or test in its name or folder, or one for all. Tools that label pictures can export it.'
)


def read_label_file(path: Path) -> Any:
    """Return what a json file holds, in any encoding of Unicode."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'--data: {path} is damaged, or no json file ({error}). Repair it, or take it out of the folder.'
        ) from error
    boxes = content.get('annotations') if isinstance(content, dict) else None
    boxed = isinstance(boxes, list) and boxes and isinstance(boxes[0], dict) and 'bbox' in boxes[0]
    if boxed and lists_missing(content):
        raise ValueError(f'--data: {lacks(path, content)} {FORMAT}')
    return content


def mended_file(path: Path, content: Content, folder: Path, stored: bool) -> tuple[Content, list[str]]:
    """Return what training and metric read in place of a label file, and notes; without any, the file's content."""
    with _named(path):
        found, notes = mended(content, lambda picture: _size_of_file(folder / picture, stored))
    with path.open('rb') as file:
        if json.detect_encoding(file.read(4)) != 'utf-8':
            notes.append('it begins with a byte order mark, with which pycocotools cannot read it')
    return found, [f'{"WARNING: " if "left out" in note else ""}{path.name}: {note}' for note in notes]


def check_entries(path: Path, content: Content) -> None:
    """Check the entries of a label file, see :func:`mmdistill_dense.datasets.coco_file.check`."""
    with _named(path):
        check(content, MENDED)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith('--data') else f'--data: {path}: {error}') from error


def _size_of_file(path: Path, stored: bool) -> tuple[int, int]:
    with opened(path) as picture:
        return size_of(picture, stored)


def none_found(root: Path, files: Sequence[Path]) -> str:
    """Return a sentence about what the folder holds, for a folder without label files."""
    if files:
        return f'no label file. {" ".join(lacks(path, read_label_file(path)) for path in files[:2])}'
    others = [path for path in files_below(root, tuple(_OTHERS)) if not _LISTS & set(path.parts)]
    counts = Counter(path.suffix.lower() for path in others)
    told = [
        f'{count} {ending} files, as of {_OTHERS[ending][0]}: `pip install labelformat`, then `labelformat convert '
        f'--task object-detection --input-format {_OTHERS[ending][1]} --output-format coco --output-file labels.json`.'
        for ending, count in counts.items()
    ]
    if not told and any('label' in path.name or 'mask' in path.name for path in root.iterdir()):
        told = ['Label images are for networks of mmseg::.']
    return ' '.join(['no json file.', *told])


def lacks(path: Path, content: Any) -> str:
    """Say which lists of a label file a json file does not have."""
    if not isinstance(content, dict):
        return f'{path.name} holds a {type(content).__name__}.'
    return f'{path.name} has {some(content)}, but no list of {", ".join(lists_missing(content))}.'


def check_sizes(path: Path, folder: Path, images: Sequence[Mapping[str, Any]], stored: bool) -> None:
    """Compare the sizes of some pictures, ``stored`` or as EXIF turns them, with those in the label file."""
    for one in evenly([one for one in images if one.get('width') and one.get('height')], SAMPLED):
        with opened(folder / one['file_name']) as picture:
            picture.load()
            found, written = size_of(picture, stored), (one['height'], one['width'])
        if found != written:
            raise ValueError(
                f'--data: {path} says that {one["file_name"]} has {size_text(written)} pixels (height x width); it '
                f'has {size_text(found)}, so the boxes do not fit. Correct the label file, or take its own '
                'pictures.'
            )
