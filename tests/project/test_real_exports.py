"""Folders and labels of tools and users of which a plain reading would train on something else."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco

from mmdistill_dense.apps.project.box_labels import BoxData, find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.apps.project.splits import SplitRule, free_pictures, split_of
from mmdistill_dense.datasets.folders import SegFolderDataset
from tests.project import exports
from tests.project.folders_of_data import (
    SIZE,
    Write,
    both,
    box_folder,
    changed,
    content,
    copied,
    gone,
    label,
    picture,
    renamed,
    seg_folder,
    shape_of_labelme,
    text,
    wrote,
)  # fmt: skip
from tests.project.written_data import READ, label_images

RED, BLACK, WHITE = (250, 50, 83), (0, 0, 0), (255, 255, 255)
SHARE = SplitRule.read('0.3')
BOX = 'a', (20.0, 20.0, 44.0, 26.0)
TURN = '<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>'
SHAPES = {'imagePath': 'x.jpg', 'shapes': [{'label': 'a', 'points': [[1, 1], [9, 9]], 'shape_type': 'rectangle'}]}


def coloured(root: Path, colours: Callable[[str, int], Sequence[tuple[int, int, int]]], mode: str = 'RGB') -> Path:
    """Label images whose halves, above and below, have the colours of their part and number."""
    for path in sorted(seg_folder(root).glob('labels/*/*')):
        drawn = np.zeros((*SIZE, 3), np.uint8)
        drawn[: SIZE[0] // 2], drawn[SIZE[0] // 2 :] = colours(path.parent.name, int(path.stem))
        Image.fromarray(drawn).convert(mode).save(path)
    return root


def table(root: Path, **colours: tuple[int, int, int]) -> Path:
    rows = [f'{name},{r},{g},{b}\n' for name, (r, g, b) in colours.items()]
    (root / 'class_dict.csv').write_text('name,r,g,b\n' + ''.join(rows))
    return root


@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_black_and_white_go_by_their_list(mode: str, tmp_path: Path) -> None:
    actual = find_seg_data(table(coloured(tmp_path, lambda *_: (BLACK, WHITE), mode), road=WHITE, rest=BLACK))
    assert dict(zip(actual.classes, actual.values or (255, 0), strict=True)) == {'rest': 0, 'road': 255}
    if mode == 'RGB':  # names choose among those of the list, in its order
        actual = find_seg_data(tmp_path, ['rest', 'road'])
        assert actual.classes == ('road', 'rest') and actual.drawing is not None
        assert np.unique(actual.drawing.jobs[0][1]()[0]).tolist() == [1]
        assert find_seg_data(tmp_path, ['nothing', 'nucleus']).values == (0, 255), 'other names than those of the list'
        (tmp_path / 'class_dict.csv').write_text('id,name\n0,a\n1,b\n')  # a list of something else
        assert find_seg_data(tmp_path, ['nothing', 'nucleus']).values == (0, 255)


def test_colours_are_checked_as_numbers_are(tmp_path: Path) -> None:
    def colours(part: str, _: int) -> Sequence[tuple[int, int, int]]:
        return (BLACK, WHITE) if part == 'train' else (BLACK, RED)

    root = table(coloured(tmp_path, colours), rest=BLACK, road=WHITE, rust=RED)
    assert any('rust (2). Nobody can learn it' in note for note in find_seg_data(root).notes)
    with pytest.raises(ValueError, match='--classes: rust is the only class'):
        find_seg_data(root, ['rust'])
    notes = find_seg_data(root, ['rest', 'road']).notes
    assert 'ignored, because --classes leaves them out: rust (16.7% of the pixels)' in notes
    coloured(root, lambda part, _: (BLACK, WHITE) if part == 'train' else (RED, RED))
    with pytest.raises(ValueError, match='all pixels of the label images for val are 255'):
        find_seg_data(root, ['rest', 'road'])


def test_a_palette_may_lack_colours(tmp_path: Path) -> None:
    root, palette = seg_folder(tmp_path), [*BLACK, *RED, *WHITE]
    for path in root.glob('labels/*/*.png'):
        values = np.asarray(Image.open(path))
        short = path.stem == '0'
        image = Image.fromarray(values.clip(0, 1) if short else values, 'P')
        image.putpalette(palette[: 6 if short else 9])
        image.save(path)
    assert find_seg_data(table(root, rest=BLACK, rust=RED, road=WHITE)).classes == ('rest', 'rust', 'road')


def test_every_label_image_is_read_where_a_name_ignores_a_value(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr('mmdistill_dense.apps.project.label_values.COUNTED', 1)
    root = seg_folder(tmp_path)
    label(root / 'labels/train/2.png', (0, 1, 2, 3))
    with pytest.raises(ValueError, match='3 names'):
        find_seg_data(root, ['-', 'wall', 'floor'])


@pytest.mark.parametrize('form', ['coco', 'voc'])
def test_a_turned_box_of_cvat_is_refused(form: str, tmp_path: Path) -> None:
    if form == 'coco':

        def turn(content: dict) -> None:
            for number, one in enumerate(content['annotations']):
                one |= {'bbox': [20 + number / 8, 20, 24, 6], 'attributes': {'rotation': 90.0}, 'segmentation': []}

        changed(box_folder(tmp_path), turn)
    else:
        for number in range(6):
            picture(tmp_path / f'{number}.jpg', number)
            exports.voc_file(tmp_path / f'{number}.xml', f'{number}.jpg', (*BOX, TURN))
    with pytest.raises(ValueError, match=r'(the box .*|object 1 \(a\)) is turned by 90.0 degrees. rotation of boxes'):
        find_box_data(tmp_path)


@pytest.mark.parametrize('rotation', [0, 360.0, -720, '90', None])
def test_a_box_that_stands_upright_is_read(rotation: Any, tmp_path: Path) -> None:
    """After whole turns, and where the mark is a text of the user's own."""
    boxes = [[box['bbox'] for box in annotations(find_box_data(box_folder(tmp_path)))]]
    changed(tmp_path, lambda content: [box.update(attributes={'rotation': rotation}) for box in content['annotations']])
    assert [[box['bbox'] for box in annotations(find_box_data(tmp_path))]] == boxes


def test_objects_of_one_box_are_compared_with_the_first(tmp_path: Path) -> None:
    """Of outlines A, B, B all stay, as before; of A, A the second is left out."""
    x, y, w, h = 10, 10, 20, 20
    rings = [[x, y, x + w, y, x + w, y + h, x, y + h], [x, y, x + w, y, x + w, y + h, x + 1, y + h]]
    for order, count in ((0, 1, 1), 3), ((0, 0), 1):

        def repeat(content: dict, order: Sequence[int] = order) -> None:
            first = content['annotations'][0] | {'bbox': [x, y, w, h]}
            content['annotations'] = [first | {'id': n, 'segmentation': [rings[i]]} for n, i in enumerate(order, 1)]

        root = changed(box_folder(tmp_path / str(count), masks=True), repeat, ['train'])
        assert len([box for box in annotations(find_box_data(root)) if box['bbox'] == [x, y, w, h]]) == count


def test_a_wrong_absolute_path_is_not_read_below_the_data(tmp_path: Path) -> None:
    exports.ultralytics(tmp_path)
    file = next(tmp_path.glob('*.yaml'))
    train = yaml.safe_load(file.read_text())['train']
    file.write_text(file.read_text().replace(f'train: {train}', f'train: /{str(train).lstrip("./")}'))
    with pytest.raises(FileNotFoundError, match='train: /.* is not there'):
        find_box_data(tmp_path)


def yolo(root: Path, names: Sequence[str], kind: int = 0) -> Path:
    for number, name in enumerate(names):
        picture(root / f'{name}.jpg', hash((str(root), number)) % 1000)
        (root / f'{name}.txt').write_text(f'{kind} 0.5 0.5 0.3 0.3\n')
    return root


@pytest.mark.parametrize('other', ['6.xml', '6.json'])
def test_pictures_of_a_second_form_are_no_background(other: str, tmp_path: Path) -> None:
    yolo(tmp_path, '012345')
    picture(tmp_path / '6.jpg', 6)
    file, empty = tmp_path / other, '<annotation/>' if other == '6.xml' else '{}'
    file.write_text(empty)
    assert find_box_data(tmp_path, ['class_0']).notes, 'a file without an object is no reason'
    file.write_text(json.dumps(SHAPES))
    if other == '6.xml':
        exports.voc_file(file, '6.jpg', BOX)
    with pytest.raises(ValueError, match=f'1 pictures have no text file, .*{other}'):
        find_box_data(tmp_path, ['a'])
    for stem in '0123':  # most were converted, and what became nothing has no text file
        file.with_stem(stem).write_bytes(file.read_bytes())
    assert find_box_data(tmp_path, ['class_0']).notes


def test_a_new_split_keeps_to_what_the_yaml_file_names(tmp_path: Path) -> None:
    yolo(tmp_path / 'train', '01234567')
    picture(tmp_path / 'runs/detect/train_batch0.jpg')
    (tmp_path / 'data.yaml').write_text('names: [cat]\ntrain: train\nval: valid\n')
    (tmp_path / 'valid').mkdir()  # empty
    parts = find_box_data(tmp_path, rule=SHARE).pictures
    assert sorted(Path(path).stem for part in parts.values() for path in part) == [*'01234567']


def test_two_files_that_name_other_classes_are_refused(tmp_path: Path) -> None:
    for folder, names in (('v1', '[cat, dog]'), ('v2', '[dog, cat]')):
        yolo(tmp_path / folder, '0123')
        (tmp_path / folder / 'data.yaml').write_text(f'names: {names}\n')
    with pytest.raises(ValueError, match='name other classes'):
        find_box_data(tmp_path, rule=SHARE)
    (tmp_path / 'v2/data.yaml').write_text('names: {0: cat, 1: dog}\n')
    assert find_box_data(tmp_path, rule=SHARE).classes == ('cat',)


def test_names_of_folders_tell_parts(tmp_path: Path) -> None:
    parts = {
        'images/train/test_track': 'train', 'val/dev_board': 'val', 'train2017': 'train', 'a_val': 'val',
        'training/set_test': 'train', 'my_train/x': 'train', 'trainer': None,
    }  # fmt: skip
    assert {path: split_of(path.split('/')) for path in parts} == parts
    pictures = 'segment-1001 gta5 masked_day labelled labelled_day'
    for index, name in enumerate([*pictures.split(), 'seg_day', 'labels', 'gtFine', 'LabeledApproved_full', 'gtAll']):
        for number in range(4):
            picture(tmp_path / name / f'{name}/{number}.jpg', 10 * index + number)
    actual = free_pictures(str(tmp_path), {}, set(), 2)
    assert actual.count == 4 * 5 and {name.partition('/')[0] for name in actual.names} == {*pictures.split()}


def test_a_hidden_folder_is_no_data(tmp_path: Path) -> None:
    root = seg_folder(tmp_path)
    for kind in ('images', 'labels'):
        first = next(root.glob(f'{kind}/train/0.*'))
        hidden = first.parent / '.ipynb_checkpoints'
        hidden.mkdir()
        (hidden / f'0-checkpoint{first.suffix}').write_bytes(first.read_bytes())
    actual = find_seg_data(root)
    split, classes = actual.splits['train'], {'classes': actual.classes}
    prefixes = {'img_path': split.pictures, 'seg_map_path': split.labels}
    listed_data = SegFolderDataset(data_root=str(root), metainfo=classes, data_prefix=prefixes, pipeline=[])
    assert len(listed_data) == split.count == 4


COCO = '*/_annotations.coco.json'

# Two statements of one fact


def annotations(data: BoxData) -> list[dict[str, Any]]:
    """Those of all parts."""
    files = [json.loads(split.content or (data.root / split.labels).read_text()) for split in data.splits.values()]
    return [{**annotation, 'id': 0} for file in files for annotation in file['annotations']]


def roboflow(root: Path, change: Callable[[dict[str, Any]], Any], each: int = 1) -> Path:
    """Roboflow's COCO with each n-th annotation changed."""
    exports.roboflow_coco(root)
    content(COCO, lambda found: [change(annotation) for annotation in found['annotations'][each // 2 :: each]])(root)
    return root


def filled(box: list[int]) -> np.ndarray:
    x, y, w, h = box
    mask = np.zeros(exports.SIZE, np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def lengths(mask: np.ndarray) -> dict[str, Any]:
    return {'size': list(exports.SIZE), 'counts': exports.runs(mask.ravel(order='F'))}


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    'fractions': lambda box: box.update(segmentation=[[value / 64 for value in box['segmentation'][0]]]),
    'rows': lambda box: box.update(segmentation=dict(lengths(filled(box['bbox']).T), size=list(exports.SIZE))),
    'x and y swapped': lambda box: box.update(bbox=[box['bbox'][number] for number in (1, 0, 3, 2)]),
}


@pytest.mark.parametrize('fault', CONTRADICTIONS)
def test_outlines_that_contradict_their_boxes_are_seen(fault: str, tmp_path: Path) -> None:
    for task in READ:
        with pytest.raises(ValueError, match='bbox overlap by less than half.*one of both is wrong|without a pixel'):
            READ[task](roboflow(tmp_path / 'all', CONTRADICTIONS[fault]))
    notes = find_box_data(roboflow(tmp_path / 'some', CONTRADICTIONS[fault], 3)).notes
    words = r'WARNING: _annotations.coco.json: [1-3] of [69] outlines and their bbox overlap by less'
    assert any(re.match(words, note) for note in notes)


def packed(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco.encode(np.asfortranarray(mask))
    return dict(size=encoded['size'], counts=encoded['counts'].decode())


@pytest.mark.parametrize('encode', [lengths, packed])
def test_run_lengths_are_read_in_both_forms(encode: Callable[[np.ndarray], dict[str, Any]], tmp_path: Path) -> None:
    root = roboflow(tmp_path / 'mine', lambda one: one.update(segmentation=encode(filled(one['bbox']))))
    data = find_seg_data(root)
    drawn = label_images(data, 'train', tmp_path / 'out')['b']
    boxes = [exports.box(points) for _, points in exports.shapes('b')]
    assert all((drawn[top:bottom, left:right] > 0).all() for left, top, right, bottom in boxes)
    assert not any('WARNING' in note for note in data.notes)


# What is left out is counted


@pytest.mark.parametrize('task', READ)
def test_crowds_are_counted(task: str, tmp_path: Path) -> None:
    data = READ[task](roboflow(tmp_path / 'some', lambda annotation: annotation.update(iscrowd=1), 4))
    assert re.search(r'; 15 annotations, 12 used, 3 of iscrowd=1, neither learned nor scored \(\w', data.notes[0])
    leaves = roboflow(tmp_path / 'class', lambda one: one.update(iscrowd=int(one['category_id'] == 3)))
    assert any('but those of iscrowd=1, so nobody can learn it: leaf' in note for note in READ[task](leaves).notes)
    with pytest.raises(ValueError, match='all boxes of .* have iscrowd=1'):
        READ[task](roboflow(tmp_path / 'all', lambda annotation: annotation.update(iscrowd=1)))


def beside_pictures(*names: str) -> Write:
    """Move text files of YOLO to their pictures."""
    return both(*(both(copied(f'labels/{name}', f'images/{name}'), gone(f'labels/{name}')) for name in names))


def in_other_letters(change: Callable[[str], str]) -> Write:
    folders = (renamed(name, lambda path: change(path.name)) for name in ('images', 'labels'))
    return both(*folders, text('data.yaml', ': images', f': {change("images")}', count=0))


@pytest.mark.parametrize(('change', 'notes'), [
    (both(beside_pictures('train/b.txt', 'val/e.txt'), wrote('images/train/c.txt', 'a photo of 3 leaves'),
          wrote('images/val/d.txt', '0 .5 .5 .1 .1')),
     r', 1 not read \(images/train/c.txt\); (.|\n)*WARNING: 1 of 8 files are second ones .*images/val/d.txt'),
    (text('labels/train/b.txt', r'((.|\n)+)', r'\1\n\1'),
     'WARNING: 3 of 18 annotations have class, box and outline of another one; they are left out'),
    (in_other_letters(str.title), ''), (in_other_letters(str.upper), ''),
])  # fmt: skip
def test_yolo_folders_give_the_same_objects(change: Write, notes: str, tmp_path: Path) -> None:
    exports.ultralytics(tmp_path)
    before = annotations(find_box_data(tmp_path))
    change(tmp_path)
    data = find_box_data(tmp_path)
    assert annotations(data) == before and re.search(notes, '\n'.join(data.notes))


@pytest.mark.parametrize('kind', ['rotation', 'oriented_rectangle'])
def test_turned_boxes_of_labelme_are_read(kind: str, tmp_path: Path) -> None:
    exports.labelme(tmp_path)
    shape_of_labelme(1, shape_type=kind, points=[[5, 10], [30, 5], [33, 25], [8, 30]])(tmp_path)
    assert len(annotations(find_box_data(tmp_path))) == 15


def test_objects_without_a_pixel_draw_no_label_images(tmp_path: Path) -> None:
    def thin(annotation: dict[str, Any]) -> None:
        x, y, w, _ = annotation['bbox']
        annotation.update(segmentation=[[x, y, x + w, y, x + w, y + 0.01]], bbox=[x, y, w, 1.2])

    data = find_seg_data(roboflow(tmp_path / 'some', thin, 5))
    assert 'WARNING: 3 of 15 annotations have an outline without a pixel; they are left out' in data.notes[1]
    with pytest.raises(ValueError, match='all 9 annotations have an outline without a pixel'):
        find_seg_data(roboflow(tmp_path / 'all', thin))


def test_drawn_label_images_are_checked_as_those_that_are_there(tmp_path: Path) -> None:
    """The first class covers the others in each picture."""

    def whole(annotation: dict[str, Any]) -> None:
        annotation.update(segmentation=[[0, 0, 64, 0, 64, 48, 0, 48]], bbox=[0, 0, 64, 48])

    root = roboflow(tmp_path, whole)
    content('train/*.json', lambda found: found['images'].pop(2))(root)  # which has no objects
    content(COCO, lambda found: found['annotations'].sort(key=lambda annotation: -annotation['category_id']))(root)
    with pytest.raises(ValueError, match='label images that were looked at hold the value 1 alone'):
        find_seg_data(root)
