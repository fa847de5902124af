"""Labels in VOC's xml: a file for each picture, with boxes between corners counted from 1, by some tools from 0."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmdistill_dense.apps.project.formats.objects import Entry, Reading, Request, Shape, number
from mmdistill_dense.apps.project.picture_files import file_errors, files_below
from mmdistill_dense.utils.removed import removed

NAMES = ('classes.txt', 'labels.txt')  # of VOC's classes
_VOC = 'annotation'  # the root of its files
_SIDES = ('xmin', 'ymin', 'xmax', 'ymax')


def find_xml(request: Request) -> list[Path]:
    """Return the xml files, or none if the first is of another kind; CVAT's own is refused."""
    files = sorted(files_below(request.root, ('.xml',)))
    kind = _root_of(files[0]).tag if files else ''
    if kind == 'annotations':
        raise ValueError(f'--data: {files[0]}: {removed("CVAT xml")}')
    return files if kind == _VOC else []


def read_xml(request: Request, files: Sequence[Path]) -> Reading:
    reading, entries = Reading('VOC xml', files[0].parent), list[Entry]()
    for path in files:
        root = _root_of(path)
        if root.tag != _VOC:
            reading.skipped_files['are xml of another kind'].append(path)
            continue
        reading.files.append(path)
        name = root.findtext('filename') or path.stem
        words = [f'{path.stem}{Path(name).suffix}', path.stem, name]  # this one comes last: some tools copy it
        size = {side: root.findtext(f'size/{side}') for side in ('height', 'width')}
        entries.append(Entry(path, words, size, _voc_shapes(path, root)))
    reading.add(request, 'xml files', entries, ['box'])
    reading.add_names(request.root, NAMES)
    boxes = [instance['bbox'] for picture in reading.pictures for instance in picture.objects]
    if any(min(box[:2]) < 1 for box in boxes):
        reading.notes.append('a box begins below 1, so corners are counted from 0; VOC itself counts from 1')
    else:
        for box in boxes:
            box[:2] = box[0] - 1, box[1] - 1
    return reading


def _root_of(path: Path) -> Any:
    with file_errors(path):
        return ElementTree.parse(path).getroot()


def _voc_shapes(path: Path, root: Any) -> Iterator[Shape]:
    """Yield boxes. Those marked as difficult are ignored in training and scores, as VOC does."""
    for index, node in enumerate(root.iterfind('object'), 1):
        if not (name := (node.findtext('name') or '').strip()):
            raise ValueError(f'--data: {path}: object {index} has no name. Name it, or take it out.')
        where, texts = f'{path}: object {index} ({name})', {side: node.findtext(f'bndbox/{side}') for side in _SIDES}
        if missing := [side for side, value in texts.items() if value is None]:
            raise ValueError(f'--data: {where} has no bndbox with {", ".join(missing)}. Draw its box.')
        sides = [number(f'{where}: {side}', value) for side, value in texts.items()]
        if sides[2] <= sides[0] or sides[3] <= sides[1]:
            raise ValueError(f'--data: {where}: xmax must be above xmin, and ymax above ymin.')
        crowd = (node.findtext('difficult') or '').strip().lower() in ('1', 'true', 'yes')
        marks = {mark.findtext('name'): mark.findtext('value') for mark in node.iterfind('attributes/attribute')}
        turned: dict[str, Any] = {}
        with suppress(ValueError):  # of a user's own attribute
            turned['attributes'] = {'rotation': number(where, marks.get('rotation'))}  # as in CVAT's COCO
        yield Shape(where, name, 'box', sides, marks={'iscrowd': int(crowd), **turned})
