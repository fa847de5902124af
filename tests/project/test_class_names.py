"""Class names of every format are the texts that stand in the file, also those that YAML and JSON read as something
else; a name that says that it is no class is told."""

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdistill_dense.apps.project.box_labels import find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from tests.project.exports import write
from tests.project.folders_of_data import label, label_file, picture

ODD = ('on', 'off', 'Yes', 'no', '007', '012', '1e3', '~', '2024-01-01', '0x1f', '1_000', '12:30', 'null', '.inf', '=')
STEMS = ('a', 'b', 'c', 'd')
Export = Callable[[Path, Sequence[str]], None]


def pictures(root: Path) -> list[Path]:
    paths = [root / f'images/{stem}.jpg' for stem in STEMS]
    for number, path in enumerate(paths):
        picture(path, number)
    return paths


def yolo(root: Path, names: Sequence[str]) -> None:
    pictures(root)
    for stem in STEMS:
        write(root / f'labels/{stem}.txt', ''.join(f'{number} .5 .5 .4 .4\n' for number in range(len(names))))


def yolo_list(root: Path, names: Sequence[str]) -> None:
    yolo(root, names)
    write(root / 'data.yaml', f'nc: {len(names)}\ntest:\nnames: [{", ".join(names)}]\n')


def yolo_dict(root: Path, names: Sequence[str]) -> None:
    """In another order than the numbers."""
    yolo(root, names)
    lines = [f'  {number}: {name}\n' for number, name in enumerate(names)]
    write(root / 'data.yaml', f'test: ~\nnames:\n{"".join(reversed(lines))}')


def yolo_text(root: Path, names: Sequence[str]) -> None:
    yolo(root, names)
    write(root / 'obj.names', '\n'.join(names))


def coco(root: Path, names: Sequence[str]) -> None:
    content = label_file([path.name for path in pictures(root)], names)
    for box in content['annotations']:
        box['bbox'] = [2, 2, 10 + box['id'] % 30, 18]
    write(root / 'labels.json', json.dumps(content))


def labelme(root: Path, names: Sequence[str]) -> None:
    write(root / 'labels.txt', '\n'.join(names))
    drawn = [{'label': name, 'points': [[2, 2], [20, 20]], 'shape_type': 'rectangle'} for name in names]
    for path in pictures(root):
        write(path.with_suffix('.json'), json.dumps({'shapes': drawn, 'imagePath': path.name}))


def voc(root: Path, names: Sequence[str]) -> None:
    write(root / 'classes.txt', '\n'.join(names))
    box = '<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>'
    drawn = ''.join(f'<object><name>{name}</name>{box}</object>' for name in names)
    for path in pictures(root):
        write(path.with_suffix('.xml'), f'<annotation><filename>{path.name}</filename>{drawn}</annotation>')


def cvat(root: Path, names: Sequence[str]) -> None:
    labels = ''.join(f'<label><name> {name} </name></label>' for name in names)
    boxes = ''.join(f'<box label="{name}" xtl="2" ytl="2" xbr="20" ybr="20"/>' for name in names)
    images = ''.join(f'<image name="{path.name}" height="48" width="64">{boxes}</image>' for path in pictures(root))
    write(root / 'annotations.xml', f'<annotations><meta><labels>{labels}</labels></meta>{images}</annotations>')


BOXES = (yolo_list, yolo_dict, yolo_text, coco, labelme, voc, cvat)


def masks(root: Path, names: Sequence[str]) -> None:
    for path in pictures(root):
        label(root / f'masks/{path.stem}.png', range(len(names)))


def mask_text(root: Path, names: Sequence[str]) -> None:
    masks(root, names)
    write(root / 'classes.txt', '\n'.join(names))


def mask_numbers(root: Path, names: Sequence[str]) -> None:
    masks(root, names)
    write(root / 'classes.txt', ''.join(f'{number} {name}\n' for number, name in enumerate(names)))


def mask_csv(root: Path, names: Sequence[str]) -> None:
    masks(root, names)
    rows = ''.join(f'{number}, {name}\n' for number, name in enumerate(names))
    write(root / '_classes.csv', f'Pixel Value, Class\n{rows}')


def paint(root: Path, names: Sequence[str]) -> list[tuple[int, int, int]]:
    colours = [(10 + number, 200, 3 * number) for number in range(len(names))]
    for path in pictures(root):
        drawn = np.array(colours, np.uint8)[np.arange(48 * 64).reshape(48, 64) % len(names)]
        (root / 'masks').mkdir(exist_ok=True)
        Image.fromarray(drawn).save(root / f'masks/{path.stem}.png')
    return colours


def colour_csv(root: Path, names: Sequence[str]) -> None:
    rows = [f'{name},{r},{g},{b}\n' for name, (r, g, b) in zip(names, paint(root, names), strict=True)]
    write(root / 'class_dict.csv', f'name,r,g,b\n{"".join(rows)}')


def colour_json(root: Path, names: Sequence[str]) -> None:
    rows = [{'name': name, 'color': colour} for name, colour in zip(names, paint(root, names), strict=True)]
    write(root / 'colormap.json', json.dumps(rows))


def label_map(root: Path, names: Sequence[str]) -> None:
    rows = [f'{name}:{r},{g},{b}::\n' for name, (r, g, b) in zip(names, paint(root, names), strict=True)]
    write(root / 'labelmap.txt', ''.join(rows))


MASKS = (mask_text, mask_numbers, mask_csv, colour_csv, colour_json, label_map)


@pytest.mark.parametrize('export', BOXES)
def test_names_of_boxes_are_the_texts_of_the_file(export: Export, tmp_path: Path) -> None:
    export(tmp_path, ODD)
    assert find_box_data(tmp_path).classes == ODD


@pytest.mark.parametrize('export', MASKS)
def test_names_of_label_values_are_the_texts_of_the_file(export: Export, tmp_path: Path) -> None:
    names = tuple(name for name in ODD if export is not label_map or ':' not in name)  # which ends a name there
    export(tmp_path, names)
    assert find_seg_data(tmp_path).classes == names


@pytest.mark.parametrize(('names', 'classes'), [
    ('{0: 7, 1: 08, 2: 3.10}', ('7', '08', '3.10')),
    ("['on', \"007\", a b]", ('on', '007', 'a b')),
    ('{"0": x, 1: y, 2: z}', ('x', 'y', 'z')),
    ('{0: x, 1: y, 1_0: z}', 'one name of its own'),
    ('{0: x, 1: y, 01: z}', 'one name of its own'),
    ('[x, y, ""]', 'one name of its own'),
    ('[x, y, [z]]', 'one name of its own'),
    ('data/obj.names', 'one name of its own'),
])  # fmt: skip
def test_names_in_yaml(names: str, classes: str | tuple[str, ...], tmp_path: Path) -> None:
    yolo(tmp_path, 'xyz')
    write(tmp_path / 'data.yaml', f'nc: 3\ntest: null\nnames: {names}\n')
    if isinstance(classes, tuple):
        assert find_box_data(tmp_path).classes == classes
        return
    with pytest.raises(ValueError, match=classes):
        find_box_data(tmp_path)


@pytest.mark.parametrize('part', ['007', '1_000', 'on'])
def test_folders_in_yaml_are_read_as_they_are_written(part: str, tmp_path: Path) -> None:
    for folder in (part, 'val'):
        for stem in STEMS[:2]:
            picture(tmp_path / f'images/{folder}/{folder}{stem}.jpg')
            write(tmp_path / f'labels/{folder}/{folder}{stem}.txt', '0 .5 .5 .4 .4\n')
    write(tmp_path / 'data.yaml', f'path: images\ntrain: {part}\nval: val\nnames: [x]\nnc: 1.0\n')
    assert {name[:-5] for name in find_box_data(tmp_path).splits['train'].names} == {part}


@pytest.mark.parametrize(('number', 'name'), [(7, '7'), (0, '0'), (1e3, None), (True, None), (['x'], None)])
def test_a_number_of_json_is_a_name_if_no_digit_is_lost(number: object, name: str | None, tmp_path: Path) -> None:
    for path in pictures(tmp_path):
        shapes = [{'label': label, 'points': [[2, 2], [20, 20]], 'shape_type': 'rectangle'} for label in (number, 'x')]
        write(path.with_suffix('.json'), json.dumps({'shapes': shapes, 'imagePath': path.name}))
    if name:
        assert find_box_data(tmp_path).classes == (name, 'x')
        return
    with pytest.raises(
        ValueError, match=r'a.json: shapes\[0\]: the name of its class is .*no text. Write it in quotes'
    ):
        find_box_data(tmp_path)


def test_a_number_as_a_category_of_coco_is_refused(tmp_path: Path) -> None:
    content = label_file([path.name for path in pictures(tmp_path)], ['x'])
    content['categories'][0]['name'] = 7
    write(tmp_path / 'labels.json', json.dumps(content))
    with pytest.raises(ValueError, match=r'categories\[0\].name is 7, not a text'):
        find_box_data(tmp_path)


# Names that are no class


@pytest.mark.parametrize('name', ['void', 'Ignore', '_unlabelled_', "don't care", 'background', 'avoid', 'ignored car'])
@pytest.mark.parametrize('export', [mask_text, colour_csv, yolo_text])
def test_a_class_that_is_none_by_its_name_is_told(export: Export, name: str, tmp_path: Path) -> None:
    names = ('sky', 'a road', name)
    export(tmp_path, names)
    find = find_box_data if export is yolo_text else find_seg_data
    data = find(tmp_path)
    assert data.classes == names, 'and learned as before'
    hints = [note for note in data.notes if note.startswith(f'{name}: learned, and part of the mean score')]
    thing = name in ('avoid', 'ignored car') or (name == 'background' and find is find_seg_data)
    assert len(hints) == int(not thing)
    for hint in hints:
        words = shlex.split(hint.partition('--classes ')[2])
        assert words == (['sky', 'a road', '-'] if export is mask_text else ['sky', 'a road'])
        assert find(tmp_path, words).classes == ('sky', 'a road')


def test_a_single_class_beside_void_gets_no_advice(tmp_path: Path) -> None:
    mask_text(tmp_path, ('sky', 'void'))
    assert not any('learned, and part' in note for note in find_seg_data(tmp_path).notes)
