"""One small data set, written as annotation tools export it. Nothing of the package is used."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (48, 64)  # height and width
CLASSES = ('red cell', 'white-cell', 'leaf')
COLOURS = ((128, 0, 0), (0, 128, 0), (7, 9, 250))
PARTS = {'train': ('a b', 'b', 'c', 'ü'), 'val': ('d', 'e')}
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
    """The label image of a picture."""
    found = np.full(SIZE, empty, np.uint8)
    for label, points in shapes(name):
        inside = np.zeros(SIZE, bool)
        if len(points) == 4:
            (left, top), (right, bottom) = points[0], points[2]
            inside[top:bottom, left:right] = True
        else:
            (left, top), (right, _), (_, middle), (inner, _), (_, bottom), _ = points
            inside[top:middle, left:right] = inside[middle:bottom, left:inner] = True
        found[inside] = values[CLASSES.index(label)]
    return found


def box(points: Sequence[tuple[int, int]]) -> tuple[int, int, int, int]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.stem.encode()) + 1000 * len(path.stem)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def coco(root: Path, names: Sequence[str], file: Path, start: int = 1) -> None:
    """Beside the pictures of Roboflow, or for all."""
    images = [
        {'id': number, 'file_name': f'{name}.jpg', 'height': SIZE[0], 'width': SIZE[1]}
        for number, name in enumerate(names, start)
    ]
    drawn = [(image['id'], *shape) for image, name in zip(images, names, strict=True) for shape in shapes(name)]
    boxes = [
        {
            'id': number,
            'image_id': image,
            'category_id': CLASSES.index(label) + 1,
            'bbox': [left, top, right - left, bottom - top],
            'area': (right - left) * (bottom - top),
            'segmentation': [[value for point in points for value in point]],
            'iscrowd': 0,
        }
        for number, (image, label, points) in enumerate(drawn, 1)
        for left, top, right, bottom in [box(points)]
    ]
    kinds = [{'id': number, 'name': name} for number, name in enumerate(CLASSES, 1)]
    write(file, json.dumps({'images': images, 'annotations': boxes, 'categories': kinds}))


def roboflow_coco(root: Path) -> None:
    for part, names in PARTS.items():
        folder = root / {'val': 'valid'}.get(part, part)
        for name in names:
            picture(folder / f'{name}.jpg')
        coco(root, names, folder / '_annotations.coco.json')


def cvat_coco(root: Path) -> None:
    """One file without a split, and lists of names."""
    for names in PARTS.values():
        for name in names:
            picture(root / f'images/{name}.jpg')
    coco(root, [name for names in PARTS.values() for name in names], root / 'annotations/instances_default.json')
    for part, names in PARTS.items():
        write(root / f'splits/{part}.txt', ''.join(f'images/{name}.jpg\n' for name in names))


def _rows(name: str, polygons: bool) -> str:
    lines = []
    for label, points in shapes(name):
        left, top, right, bottom = box(points)
        values = [
            (left + right) / 2 / SIZE[1],
            (top + bottom) / 2 / SIZE[0],
            (right - left) / SIZE[1],
            (bottom - top) / SIZE[0],
        ]
        if polygons:
            values = [value for x, y in points for value in (x / SIZE[1], y / SIZE[0])]
        lines.append(' '.join([str(CLASSES.index(label)), *(f'{value:.6f}' for value in values)]))
    return '\n'.join(lines)


def ultralytics(root: Path, polygons: bool = True) -> None:
    for part, names in PARTS.items():
        for name in names:
            picture(root / f'images/{part}/{name}.jpg')
            if shapes(name):
                write(root / f'labels/{part}/{name}.txt', _rows(name, polygons))
    names = ''.join(f'  {number}: {name}\n' for number, name in enumerate(CLASSES))
    write(root / 'data.yaml', f'path: .\ntrain: images/train\nval: images/val\nnames:\n{names}')


def roboflow_yolo(root: Path) -> None:
    for part, names in PARTS.items():
        folder = root / {'val': 'valid'}.get(part, part)
        for name in names:
            picture(folder / f'images/{name}.jpg')
            write(folder / f'labels/{name}.txt', _rows(name, False))
    write(root / 'data.yaml', f'train: ../train/images\nval: ../valid/images\nnc: 3\nnames: {list(CLASSES)}\n')


def darknet(root: Path) -> None:
    for part, names in PARTS.items():
        for name in names:
            picture(root / f'obj_train_data/{name}.jpg')
            write(root / f'obj_train_data/{name}.txt', _rows(name, True))
        write(root / f'{part}.txt', ''.join(f'data/obj_train_data/{name}.jpg\n' for name in names))
    write(root / 'obj.names', '\n'.join(CLASSES))


def voc_xml(root: Path) -> None:
    for part, names in PARTS.items():
        for name in names:
            picture(root / f'JPEGImages/{name}.jpg')
            objects = ''.join(
                f'<object><name>{label}</name><difficult>{int((name, label) == ("b", "leaf"))}</difficult><bndbox>'
                f'<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right + 1}</xmax><ymax>{bottom + 1}</ymax>'
                '</bndbox></object>'
                for label, points in shapes(name)
                for left, top, right, bottom in [box(points)]
            )
            size = f'<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>'
            text = f'<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>'
            write(root / f'Annotations/{name}.xml', text)
        write(root / f'ImageSets/Main/{part}.txt', ''.join(f'{name}\n' for name in names))
    write(root / 'classes.txt', '\n'.join(CLASSES))


def voc_masks(root: Path) -> None:
    """Numbers with VOC's palette, as the tools of VOC write them, and its own split."""
    for part, names in PARTS.items():
        for name in names:
            picture(root / f'JPEGImages/{name}.jpg')
            image = Image.fromarray(truth(name)).convert('P')
            image.putpalette([0, 0, 0, *(value for colour in COLOURS for value in colour)])
            (root / 'SegmentationClass').mkdir(exist_ok=True)
            image.save(root / f'SegmentationClass/{name}.png')
        write(root / f'ImageSets/Segmentation/{part}.txt', ''.join(f'{name}\n' for name in names))
        write(root / f'ImageSets/Main/{part}.txt', 'no picture\n')  # of another task


def labelme(root: Path) -> None:
    for part, names in PARTS.items():
        for name in names:
            picture(root / part / f'{name}.jpg')
            drawn = [{'label': label, 'points': points, 'shape_type': 'polygon'} for label, points in shapes(name)]
            if drawn:  # as a mask, and as a rectangle
                (label, points), last = shapes(name)[1], shapes(name)[2]
                drawn[2] = {'label': last[0], 'points': [last[1][2], last[1][0]], 'shape_type': 'rectangle'}
                left, top, right, bottom = box(points)
                mask = np.zeros((bottom - top, right - left), bool)
                mask[: points[2][1] - top] = mask[:, : points[3][0] - left] = True
                held = io.BytesIO()
                Image.fromarray(mask).save(held, 'PNG')
                corners = [[left, top], [right - 1, bottom - 1]]
                text = base64.b64encode(held.getvalue()).decode()
                drawn[1] = {'label': label, 'points': corners, 'shape_type': 'mask', 'mask': text}
            content = {'version': '5.5.0', 'flags': {}, 'shapes': drawn, 'imagePath': f'{name}.jpg', 'imageData': None}
            write(root / part / f'{name}.json', json.dumps({**content, 'imageHeight': SIZE[0], 'imageWidth': SIZE[1]}))
    write(root / 'labels.txt', '\n'.join(['__ignore__', '_background_', *CLASSES]))


def cvat(root: Path) -> None:
    labels = ''.join(f'<label><name>{name}</name></label>' for name in CLASSES)
    images = []
    for part, names in PARTS.items():
        for name in names:
            picture(root / f'images/{name}.jpg')
            drawn = list(enumerate(shapes(name)))
            inside = []
            for order, (label, points) in reversed(drawn):  # z_order tells what lies above
                if order == 1:
                    left, top, right, bottom = box(points)
                    mask = np.zeros((bottom - top, right - left), int)
                    mask[: points[2][1] - top] = mask[:, : points[3][0] - left] = 1
                    flat = [0, *mask.ravel(), 2]
                    edges = [0, *(np.flatnonzero(np.diff(flat[1:-1])) + 1).tolist(), mask.size]
                    runs = [0] * int(mask[0, 0]) + np.diff(edges).tolist()
                    place = f'left="{left}" top="{top}" width="{right - left}" height="{bottom - top}"'
                    inside.append(
                        f'<mask label="{label}" rle="{", ".join(map(str, runs))}" {place} z_order="{order}"/>'
                    )
                else:
                    text = ';'.join(f'{x:.2f},{y:.2f}' for x, y in points)
                    inside.append(f'<polygon label="{label}" points="{text}" z_order="{order}"/>')
            size = f'width="{SIZE[1]}" height="{SIZE[0]}"'
            subset = {'val': 'Validation'}.get(part, 'Train')
            images.append(f'<image id="0" name="{name}.jpg" subset="{subset}" {size}>{"".join(inside)}</image>')
    meta = f'<meta><task><labels>{labels}</labels></task></meta>'
    write(root / 'annotations.xml', f'<annotations><version>1.1</version>{meta}{"".join(images)}</annotations>')


def coloured(root: Path, table: str = 'labelmap.txt') -> None:
    """Masks of colours in CVAT's way, with a split by folders."""
    palette = np.array([(0, 0, 0), *COLOURS], np.uint8)
    for part, names in PARTS.items():
        for name in names:
            picture(root / f'images/{part}/{name}.jpg')
            (root / f'masks/{part}').mkdir(parents=True, exist_ok=True)
            Image.fromarray(palette[truth(name)]).save(root / f'masks/{part}/{name}.png')
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
    for part, names in PARTS.items():
        folder = root / {'val': 'valid'}.get(part, part)
        for name in names:
            picture(folder / f'{name}.jpg')
            Image.fromarray(truth(name)).save(folder / f'{name}_mask.png')
    lines = ['Pixel Value, Class', *(f'{number}, {name}' for number, name in enumerate(('background', *CLASSES)))]
    write(root / 'train/_classes.csv', '\n'.join(lines))
    write(root / '_classes.csv', '\n'.join(lines))


OBJECTS: dict[str, Callable[[Path], None]] = {
    'roboflow coco': roboflow_coco, 'cvat coco': cvat_coco, 'ultralytics': ultralytics, 'darknet': darknet,
    'labelme': labelme, 'cvat': cvat,
}  # fmt: skip
BOXES = {**OBJECTS, 'roboflow yolo': roboflow_yolo, 'voc xml': voc_xml}
MASKS = {'voc masks': voc_masks, 'colours': coloured, 'roboflow masks': roboflow_masks}
