"""One small data set, written as annotation tools export it. Nothing of the package is used."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.project import folders_of_data
from tests.project.folders_of_data import SIZE, coco_content, save, write

CLASSES = ('red cell', 'white-cell', 'leaf')
COLOURS = ((128, 0, 0), (0, 128, 0), (7, 9, 250))
PARTS = {'train': ('a b', 'b', 'c', 'ü'), 'val': ('d', 'e')}
NAMES = {part: {*names} for part, names in PARTS.items()}
Shape = tuple[str, list[tuple[int, int]]]


def shapes(name: str) -> list[Shape]:
    """A box and an L of whole pixels, which overlap; the last lies above. Nothing in the picture ``c``."""
    if name == 'c':
        return []
    at = sum(name.encode()) % 7
    box = [(2 + at, 3), (30 + at, 3), (30 + at, 25), (2 + at, 25)]
    corner = [(20, 10 + at), (50, 10 + at), (50, 20 + at), (30, 20 + at), (30, 38), (20, 38)]
    small = [(52, 40), (62, 40), (62, 46), (52, 46)]
    return [(CLASSES[0], box), (CLASSES[1 + at % 2], corner), (CLASSES[2 - at % 2], small)]


def truth(name: str, values: Sequence[int] = (1, 2, 3), empty: int = 0) -> np.ndarray:
    drawn = np.full(SIZE, empty, np.uint8)
    for label, points in shapes(name):
        left, top, right, bottom = box(points)
        drawn[top:bottom, left:right][corner(points)] = values[CLASSES.index(label)]
    return drawn


def box(points: Sequence[tuple[int, int]]) -> tuple[int, int, int, int]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def picture(path: Path) -> None:
    folders_of_data.picture(path, sum(path.stem.encode()) + 1000 * len(path.stem))


def pictures(root: Path, form: str) -> list[tuple[str, Path]]:
    """Write the pictures; ``{part}`` is train or val, ``{folder}`` what Roboflow calls it. Returns names and places."""
    folders = {'train': 'train', 'val': 'valid'}
    stems = [(part, name) for part, names in PARTS.items() for name in names]
    paths = [root / form.format(part=part, folder=folders[part], name=name) for part, name in stems]
    for path in paths:
        picture(path)
    return [(path.stem, path) for path in paths]


def lists(root: Path, form: str, line: str = '{}') -> None:
    """A list of the names of each part."""
    for part, names in PARTS.items():
        write(root / form.format(part), ''.join(f'{line.format(name)}\n' for name in names))


def png(pixels: np.ndarray) -> str:
    """The text of a picture in a json file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return base64.b64encode(buffer.getvalue()).decode()


def corner(points: Sequence[tuple[int, int]]) -> np.ndarray:
    """The L, or a box, as a mask that fills its box."""
    left, top, right, bottom = box(points)
    mask = np.zeros((bottom - top, right - left), bool)
    mask[: points[2][1] - top] = mask[:, : points[3][0] - left] = True
    return mask


def runs(flat: np.ndarray) -> list[int]:
    """The lengths of equal values in a row, the first of zeros."""
    edges = [0, *(np.flatnonzero(np.diff(flat.astype(int))) + 1).tolist(), flat.size]
    return [0] * int(flat[0]) + np.diff(edges).tolist()


def coco(names: Sequence[str], file: Path) -> None:
    drawn = [(at, CLASSES.index(label), points) for at, name in enumerate(names) for label, points in shapes(name)]
    write(file, json.dumps(coco_content([f'{name}.jpg' for name in names], CLASSES, drawn)))


def roboflow_coco(root: Path) -> None:
    pictures(root, '{folder}/{name}.jpg')
    for folder, names in zip(('train', 'valid'), PARTS.values(), strict=True):
        coco(names, root / folder / '_annotations.coco.json')


def cvat_coco(root: Path) -> None:
    """One file without a split, and lists of names."""
    names = [name for name, _ in pictures(root, 'images/{name}.jpg')]
    coco(names, root / 'annotations/instances_default.json')
    lists(root, 'splits/{}.txt', 'images/{}.jpg')


def _rows(name: str, polygons: bool) -> str:
    lines = []
    for label, points in shapes(name):
        left, top, right, bottom = box(points)
        middle, size = ((left + right) / 2, (top + bottom) / 2), (right - left, bottom - top)
        pairs = points if polygons else (middle, size)
        values = [value for x, y in pairs for value in (x / SIZE[1], y / SIZE[0])]
        lines.append(' '.join([str(CLASSES.index(label)), *(f'{value:.6f}' for value in values)]))
    return '\n'.join(lines)


def ultralytics(root: Path, polygons: bool = True) -> None:
    for name, path in pictures(root, 'images/{part}/{name}.jpg'):
        if shapes(name):
            write(root / f'labels/{path.parent.name}/{name}.txt', _rows(name, polygons))
    names = ''.join(f'  {number}: {name}\n' for number, name in enumerate(CLASSES))
    write(root / 'data.yaml', f'path: .\ntrain: images/train\nval: images/val\nnames:\n{names}')


def roboflow_yolo(root: Path) -> None:
    for name, path in pictures(root, '{folder}/images/{name}.jpg'):
        write(path.parents[1] / f'labels/{name}.txt', _rows(name, False))
    write(root / 'data.yaml', f'train: ../train/images\nval: ../valid/images\nnc: 3\nnames: {list(CLASSES)}\n')


def darknet(root: Path) -> None:
    for name, path in pictures(root, 'obj_train_data/{name}.jpg'):
        write(path.with_suffix('.txt'), _rows(name, True))
    lists(root, '{}.txt', 'data/obj_train_data/{}.jpg')
    write(root / 'obj.names', '\n'.join(CLASSES))


def voc_file(path: Path, name: str, *boxes: Sequence[Any], size: str = '') -> None:
    """The name of a picture, and boxes of VOC: a label, four corners and perhaps marks."""
    objects = ''
    for label, corners, *marks in boxes:
        sides = zip(('xmin', 'ymin', 'xmax', 'ymax'), corners, strict=True)
        inside = ''.join(f'<{side}>{value}</{side}>' for side, value in sides)
        objects += f'<object><name>{label}</name><bndbox>{inside}</bndbox>{"".join(marks)}</object>'
    write(path, f'<annotation><filename>{name}</filename>{size}{objects}</annotation>')


def voc_xml(root: Path) -> None:
    size = f'<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>'
    for name, _ in pictures(root, 'JPEGImages/{name}.jpg'):
        marks = {('b', 'leaf'): '<difficult>1</difficult>'}
        boxes = [
            (kind, [side + 1 for side in box(points)], marks.get((name, kind), '')) for kind, points in shapes(name)
        ]
        voc_file(root / f'Annotations/{name}.xml', f'{name}.jpg', *boxes, size=size)
    lists(root, 'ImageSets/Main/{}.txt')
    write(root / 'classes.txt', '\n'.join(CLASSES))


def voc_masks(root: Path) -> None:
    """Numbers with VOC's palette, as the tools of VOC write them, and its own split."""
    for name, _ in pictures(root, 'JPEGImages/{name}.jpg'):
        image = Image.fromarray(truth(name)).convert('P')
        image.putpalette([0, 0, 0, *(value for colour in COLOURS for value in colour)])
        save(root / f'SegmentationClass/{name}.png', image)
    lists(root, 'ImageSets/Segmentation/{}.txt')
    for part in PARTS:
        write(root / f'ImageSets/Main/{part}.txt', 'no picture\n')  # of another task


def labelme(root: Path) -> None:
    for name, path in pictures(root, '{part}/{name}.jpg'):
        drawn: list[dict[str, Any]] = [
            {'label': label, 'points': points, 'shape_type': 'polygon'} for label, points in shapes(name)
        ]
        if drawn:  # as a mask, and as a rectangle
            (_, points), (_, last) = shapes(name)[1:]
            left, top, right, bottom = box(points)
            drawn[1] |= {'points': [[left, top], [right - 1, bottom - 1]], 'shape_type': 'mask'}
            drawn[1]['mask'] = png(corner(points))
            drawn[2] |= {'points': [last[2], last[0]], 'shape_type': 'rectangle'}
        content = {'version': '5.5.0', 'flags': {}, 'shapes': drawn, 'imagePath': f'{name}.jpg', 'imageData': None}
        sides = {'imageHeight': SIZE[0], 'imageWidth': SIZE[1]}
        write(path.with_suffix('.json'), json.dumps({**content, **sides}))
    write(root / 'labels.txt', '\n'.join(['__ignore__', '_background_', *CLASSES]))


def coloured(root: Path, table: str = 'labelmap.txt') -> None:
    """Masks of colours in CVAT's way, with a split by folders."""
    palette = np.array([(0, 0, 0), *COLOURS], np.uint8)
    for name, path in pictures(root, 'images/{part}/{name}.jpg'):
        save(root / f'masks/{path.parent.name}/{name}.png', palette[truth(name)])
    named = dict(zip(('background', *CLASSES), ((0, 0, 0), *COLOURS), strict=True))
    texts = {
        'labelmap.txt': '# label:color_rgb:parts:actions\n'
        + ''.join(f'{name}:{",".join(map(str, colour))}::\n' for name, colour in named.items()),
        'class_dict.csv': 'name,r,g,b\n' + ''.join(f'{name},{r},{g},{b}\n' for name, (r, g, b) in named.items()),
        'colormap.json': json.dumps(named),
    }
    if table:
        write(root / table, texts[table])


def roboflow_masks(root: Path) -> None:
    for name, path in pictures(root, '{folder}/{name}.jpg'):
        save(path.with_name(f'{name}_mask.png'), truth(name))
    lines = ['Pixel Value, Class', *(f'{number}, {name}' for number, name in enumerate(('background', *CLASSES)))]
    for file in ('train/_classes.csv', '_classes.csv'):
        write(root / file, '\n'.join(lines))


OBJECTS: dict[str, Callable[[Path], None]] = {
    'roboflow coco': roboflow_coco, 'cvat coco': cvat_coco, 'ultralytics': ultralytics, 'darknet': darknet,
    'labelme': labelme,
}  # fmt: skip
BOXES = {**OBJECTS, 'roboflow yolo': roboflow_yolo, 'voc xml': voc_xml}
MASKS = {'voc masks': voc_masks, 'colours': coloured, 'roboflow masks': roboflow_masks}
