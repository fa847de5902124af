"""Labels of other tools: boxes, outlines, classes and the split are those that were written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmdistill_dense.apps.project.box_labels import BoxData, find_box_data
from mmdistill_dense.apps.project.formats.objects import from_mask, from_points
from mmdistill_dense.apps.project.label_images import SegData, find_seg_data
from mmdistill_dense.apps.project.new import write
from mmdistill_dense.apps.project.splits import SplitRule
from tests.project import exports
from tests.project.exports import BOXES, CLASSES, MASKS, NAMES, OBJECTS, PARTS, png, runs, shapes, truth
from tests.project.folders_of_data import Write, content, counts, stems, text
from tests.project.written_data import label_images


def named(forms: dict[str, Write]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize('export', [pytest.param(form, id=name) for name, form in forms.items()])


def found_boxes(data: BoxData, part: str) -> dict[str, list]:
    """The boxes of each picture of a part: class and corners."""
    split = data.splits[part]
    content = json.loads(split.content or (data.root / split.labels).read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    actual: dict[str, list] = {Path(image['file_name']).stem: [] for image in content['images']}
    files = {image['id']: Path(image['file_name']).stem for image in content['images']}
    for entry in content['annotations']:
        x, y, w, h = entry['bbox']
        actual[files[entry['image_id']]].append((names[entry['category_id']], x, y, x + w, y + h))
    return actual


@named(BOXES)
def test_boxes_are_those_of_the_export(export: Write, tmp_path: Path) -> None:
    export(tmp_path)
    data = find_box_data(tmp_path)
    assert data.classes == CLASSES and set(data.splits) == set(PARTS)
    for part in PARTS:
        found = found_boxes(data, part)
        assert set(found) == NAMES[part]
        for name in found:
            wanted = sorted((label, *exports.box(points)) for label, points in shapes(name))
            assert [one[0] for one in sorted(found[name])] == [one[0] for one in wanted]
            np.testing.assert_allclose([one[1:] for one in sorted(found[name])], [one[1:] for one in wanted], atol=0.01)
    assert not any('left out' in note or 'WARNING' in note for note in data.notes)


@named({**OBJECTS, **MASKS})
def test_label_images_are_equal_to_the_pixel(export: Write, tmp_path: Path) -> None:
    export(tmp_path / 'mine')
    data = find_seg_data(tmp_path / 'mine', exif=None)
    named_classes = ('background', *CLASSES)
    assert data.classes == (named_classes if export is not exports.voc_masks else tuple(f'class_{n}' for n in range(4)))
    assert set(data.splits) == set(PARTS)
    for part, names in PARTS.items():
        actual = label_images(data, part, tmp_path / 'project')
        assert set(actual) == set(names) and data.splits[part].count == len(names)
        for name in names:
            np.testing.assert_array_equal(actual[name], truth(name), name)


def name_pictures(root: Path, form: str) -> None:
    """Move the pictures of Roboflow's COCO to where this form of a name leads, and name them so."""
    for part in ('train', 'valid'):
        file = root / part / '_annotations.coco.json'
        content = json.loads(file.read_text())
        for image in content['images']:
            name = form.format(root=root, part=part, name=Path(image['file_name']).stem)
            (file.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (file.parent / image['file_name']).rename(file.parent / name)
            image['file_name'] = name
        file.write_text(json.dumps(content))


@pytest.mark.parametrize('form', [
    '../{part}/{name}.jpg', '{root}/{part}/{name}.jpg', '../../{part}/{name}.jpg', './{name}.gif',
])  # fmt: skip
def test_outlines_are_drawn_however_coco_names_pictures(form: str, tmp_path: Path) -> None:
    exports.roboflow_coco(tmp_path / 'mine')
    name_pictures(tmp_path / 'mine', form)
    exports.picture(tmp_path / 'mine/cover.jpg')
    data = find_seg_data(tmp_path / 'mine')
    for part, names in PARTS.items():
        assert {picture.stem for picture, _ in data.pairs[part]} == set(names)
        for name, label_image in label_images(data, part, tmp_path / 'mine/project').items():
            np.testing.assert_array_equal(label_image, truth(name), name)


@pytest.mark.parametrize('table', ['class_dict.csv', 'colormap.json', 'class_dict.csv;'])
def test_colours_are_named_by_other_lists_too(table: str, tmp_path: Path) -> None:
    exports.coloured(tmp_path / 'mine', table.rstrip(';'))
    if table.endswith(';'):  # as a spreadsheet saves it in countries with decimal commas
        text('*.csv', ',', ';', count=0)(tmp_path / 'mine')
    data = find_seg_data(tmp_path / 'mine')
    np.testing.assert_array_equal(label_images(data, 'val', tmp_path / 'project')['d'], truth('d'))
    chosen = find_seg_data(tmp_path / 'mine', [CLASSES[0], CLASSES[1]])
    assert chosen.classes == CLASSES[:2]
    actual = label_images(chosen, 'train', tmp_path / 'other')['a b']
    np.testing.assert_array_equal(actual, truth('a b', (0, 1, 255), 255))


def test_classes_of_roboflow_are_read_in_the_parts_too(tmp_path: Path) -> None:
    exports.roboflow_masks(tmp_path)
    (tmp_path / '_classes.csv').unlink()
    assert find_seg_data(tmp_path).classes == ('background', *CLASSES)
    (tmp_path / 'valid/_classes.csv').write_text('Pixel Value, Class\n0, leaf\n1, red\n2, white\n3, blue\n')
    with pytest.raises(ValueError, match='valid/_classes.csv names other classes than .*train/_classes.csv'):
        find_seg_data(tmp_path)


def labelled(root: Path, *drawn: Sequence[Any]) -> Path:
    """Pictures of labelme with these shapes: label, left, top, right and bottom, then a group, and 'mask' for one."""
    for name in ('a', 'b', 'c'):
        exports.picture(root / f'{name}.jpg')
        actual = []
        for label, left, top, right, bottom, *rest in drawn:
            kind, group = 'mask' if 'mask' in rest else 'rectangle', rest[0] if rest else None
            shape = {'label': label, 'points': [[left, top], [right, bottom]], 'shape_type': kind, 'group_id': group}
            inside = png(np.ones((bottom - top, right - left), bool)) if kind == 'mask' else None
            actual.append({**shape, 'mask': inside})
        sides = {'imageHeight': exports.SIZE[0], 'imageWidth': exports.SIZE[1]}
        (root / f'{name}.json').write_text(json.dumps({'shapes': actual, 'imagePath': f'{name}.jpg', **sides}))
    return root


def drawn_pixels(data: SegData, out: Path, *pixels: tuple[int, int]) -> list[int]:
    return [int(label_images(data, 'val', out)[Path(data.splits['val'].names[0]).name][pixel]) for pixel in pixels]


LEAF_STEM_LEAF = ('leaf', 2, 2, 12, 12, 1), ('stem', 10, 2, 30, 12), ('leaf', 20, 2, 40, 12, 1)
NUMBERED_ANEW = (*LEAF_STEM_LEAF[::2], ('stem', 10, 2, 30, 12, 1), ('stem', 44, 2, 60, 9, 1))  # for each label
OF_MASKS = ('leaf', 2, 2, 12, 12, 1, 'mask'), ('leaf', 20, 4, 30, 20, 1), ('leaf', 40, 2, 50, 12, 1, 'mask')


@pytest.mark.parametrize(('drawn', 'boxes', 'areas'), [
    (LEAF_STEM_LEAF, [('leaf', 2, 2, 40, 12), ('stem', 10, 2, 30, 12)], [100 + 200, 200]),
    (NUMBERED_ANEW, [('leaf', 2, 2, 40, 12), ('stem', 10, 2, 60, 12)], [100 + 200, 200 + 112]),
    (OF_MASKS, [('leaf', 2, 2, 50, 20)], [100 + 160 + 100]),
])  # fmt: skip
def test_shapes_of_a_group_with_one_label_are_one_object(
    drawn: Sequence[Sequence[Any]], boxes: list[tuple[Any, ...]], areas: list[int], tmp_path: Path
) -> None:
    data = find_box_data(labelled(tmp_path, *drawn))
    assert [*found_boxes(data, 'val').values()] == [boxes]
    assert [box['area'] for box in json.loads(data.splits['val'].content)['annotations']] == areas
    assert data.masks


def test_parts_of_one_object_cover_what_was_drawn_before_each(tmp_path: Path) -> None:
    data = find_seg_data(labelled(tmp_path / 'mine', *LEAF_STEM_LEAF))
    assert data.classes == ('background', 'leaf', 'stem')
    assert drawn_pixels(data, tmp_path / 'out', (5, 5), (5, 11), (5, 25)) == [1, 2, 1]


@pytest.mark.parametrize('background', ['class', 'ignore'])
def test_what_labelme_ignores_is_no_class(background: str, tmp_path: Path) -> None:
    plain = ('leaf', 0, 2, 8, 12), ('stem', 10, 2, 18, 12), ('__ignore__', 20, 2, 28, 12)
    data = find_seg_data(labelled(tmp_path / 'mine', *plain), background=background)
    assert data.classes == (('background', 'leaf', 'stem') if background == 'class' else ('leaf', 'stem'))
    first = int(background == 'class')
    assert drawn_pixels(data, tmp_path / 'out', (5, 5), (5, 15), (5, 25)) == [first, first + 1, 255]
    labelled(tmp_path / 'mine', *plain, ('_background_', 0, 2, 4, 6))
    data = find_seg_data(tmp_path / 'mine')
    assert data.classes == ('background', 'leaf', 'stem')
    assert drawn_pixels(data, tmp_path / 'other', (3, 2), (10, 6)) == [0, 1]
    boxes = find_box_data(tmp_path / 'mine')
    assert boxes.classes == ('leaf', 'stem')
    for name in ('__ignore__', '_background_'):
        assert any(f'WARNING: 3 of 12 annotations are shapes called {name}; they' in note for note in boxes.notes)


@pytest.mark.parametrize(('background', 'covered'), [('class', 0), ('ignore', 255)])
def test_an_object_that_is_not_chosen_covers_those_below_it(background: str, covered: int, tmp_path: Path) -> None:
    shapes = ('a', 2, 2, 30, 30), ('b', 5, 5, 15, 15), ('c', 40, 2, 50, 12)
    data = find_seg_data(labelled(tmp_path / 'mine', *shapes), ['a', 'c'], background=background)
    a = data.classes.index('a')
    assert drawn_pixels(data, tmp_path / 'out', (3, 3), (10, 10), (5, 45)) == [a, covered, a + 1]


def test_colours_without_names_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exports.coloured(tmp_path / 'mine', '')
    message = r'no list of them is there.*\(0, 0, 0\): \d+.\d%.*Name them in .*class_dict.csv'
    with pytest.raises(ValueError, match=message):
        find_seg_data(tmp_path / 'mine')
    (tmp_path / 'class_dict.csv').rename(tmp_path / 'mine/class_dict.csv')
    assert find_seg_data(tmp_path / 'mine').classes == tuple(f'class_{number}' for number in range(4))


def test_more_classes_than_a_label_image_can_number_are_refused(tmp_path: Path) -> None:
    def more(found: dict[str, Any]) -> None:
        first = found['annotations'][0] | {'image_id': found['images'][0]['id']}
        found['categories'] += [{'id': number, 'name': f'c{number}'} for number in range(4, 256)]
        found['annotations'] += [{**first, 'id': 100 + number, 'category_id': number} for number in range(4, 256)]

    exports.roboflow_coco(tmp_path)
    content('*/_annotations.coco.json', more)(tmp_path)
    with pytest.raises(ValueError, match='256 classes; a label image numbers at most 255, .* Choose'):
        find_seg_data(tmp_path)
    data = find_seg_data(tmp_path, background='ignore')
    assert len(data.classes) == 255
    assert 254 in label_images(data, 'val', tmp_path / 'project')['d']


def test_a_crowd_is_ignored(tmp_path: Path) -> None:
    exports.roboflow_coco(tmp_path / 'mine')
    ring = np.zeros(exports.SIZE, np.uint8)
    ring[5:20, 5:20], ring[10:15, 10:15] = 1, 0

    def crowded(found: dict[str, Any]) -> None:
        hollow, *other_annotations = (entry for entry in found['annotations'] if entry['image_id'] == 1)
        counts = runs(ring.ravel(order='F'))
        hollow.update(segmentation={'size': list(exports.SIZE), 'counts': counts}, bbox=[5, 5, 15, 15])
        for entry in other_annotations:
            entry.update(iscrowd=1)

    content('train/_annotations.coco.json', crowded)(tmp_path / 'mine')
    actual = label_images(find_seg_data(tmp_path / 'mine'), 'train', tmp_path / 'project')['a b']
    crowd = truth('a b', (0, 255, 255)) == 255
    np.testing.assert_array_equal(actual, np.where(crowd, 255, ring * 1))


def test_the_area_is_that_of_the_outline() -> None:
    corner = [(20, 10), (50, 10), (50, 20), (30, 20), (30, 38), (20, 38)]
    for points in (corner, corner[::-1]):
        assert from_points(points)['area'] == 30 * 10 + 10 * 18 and from_points(points)['bbox'] == [20, 10, 30, 28]
    inside = np.ones((4, 6), bool)
    assert from_mask('x', inside, 0, 0, (4, 6))['area'] == 24
    for left, top in ((-1, 0), (0, -1), (1, 0), (0, 1)):
        with pytest.raises(ValueError, match='reaches beyond its picture'):
            from_mask('x', inside, left, top, (4, 6))


def test_colours_that_a_list_leaves_out_are_vocs(tmp_path: Path) -> None:
    exports.coloured(tmp_path / 'mine')
    voc = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)], np.uint8)
    for file in (tmp_path / 'mine/masks').rglob('*.png'):
        Image.fromarray(voc[truth(file.stem)]).save(file)
    exports.write(tmp_path / 'mine/labelmap.txt', '\n'.join(f'{name}:::' for name in ('background', *CLASSES)))
    data = find_seg_data(tmp_path / 'mine')
    assert data.classes == ('background', *CLASSES)
    np.testing.assert_array_equal(label_images(data, 'val', tmp_path / 'project')['d'], truth('d'))


# The pictures of label files


@pytest.mark.parametrize('layout', ['{0}:{0}', 'xml/{0}:images/{0}', 'xml/{0}:{0}2017', '{0}/xml:{0}/img'])
def test_a_label_file_belongs_to_the_picture_of_its_part(layout: str, tmp_path: Path) -> None:
    labels, pictures = layout.split(':')
    for part in ('train', 'val'):
        for name in '01':
            exports.picture(tmp_path / pictures.format(part) / f'{name}.jpg')
            file = tmp_path / labels.format(part) / f'{name}.xml'  # all tell the name of the first picture
            exports.voc_file(file, '0.jpg', ('cat', (5, 5, 20, 20)))
    data = find_box_data(tmp_path)
    for part, split in data.splits.items():
        assert split.pictures == f'{pictures.format(part)}/' and split.names == ('0.jpg', '1.jpg')


def test_label_files_name_a_picture_of_another_folder(tmp_path: Path) -> None:
    # With names from another machine, and beside pictures that labelme made of its files.
    other = tmp_path / 'other'
    exports.labelme(other)
    for part, names in PARTS.items():
        exports.picture(other / f'json/{part}/a b_json/img.png')
        for name in names:
            file = other / f'json/{part}/{name}.json'
            (other / part / file.name).rename(file)
            renamed_pictures = {'b': '../../train/b.jpg', 'c': 'C:\\\\old\\\\c.jpg', 'd': '/old/images/d.jpg'}
            file.write_text(file.read_text().replace(f'{name}.jpg', renamed_pictures.get(name, f'{name}.jpg')))
    assert {part: set(found_boxes(find_box_data(other), part)) for part in PARTS} == NAMES


# Label images beside boxes


def masks_beside(root: Path, *folders: str) -> None:
    for part, names in PARTS.items():
        for name in names:
            for folder in folders:
                exports.picture(root / folder.format({'val': 'valid'}.get(part, part)) / f'{name}.png')


@named(BOXES)
def test_label_images_beside_boxes_are_no_pictures(export: Write, tmp_path: Path) -> None:
    """The pictures may lie in a folder that is named as one of label images."""
    root = tmp_path / 'labelled'
    export(root)
    alone = find_box_data(root)
    masks_beside(root, 'SegmentationClass', 'SegmentationObject', 'masks/{}', '{}/masks')
    beside = find_box_data(root)
    assert beside.splits == alone.splits and beside.notes == alone.notes
    exports.picture(tmp_path / 'unlabelled/more.jpg')
    actual = find_box_data(tmp_path).splits.values()
    assert {Path(file).stem for split in actual for file in split.names} == NAMES['train'] | NAMES['val']


def test_a_label_image_replaces_no_missing_picture(tmp_path: Path) -> None:
    exports.voc_xml(tmp_path / 'voc')
    masks_beside(tmp_path / 'voc', 'SegmentationClass')
    (tmp_path / 'voc/JPEGImages/b.jpg').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 6 xml files have no picture: \S*b.xml'):
        find_box_data(tmp_path / 'voc')
    exports.ultralytics(tmp_path / 'yolo')
    masks_beside(tmp_path / 'yolo', 'labels/train', 'labels/val')
    (tmp_path / 'yolo/images/train/b.jpg').unlink()
    assert find_box_data(tmp_path / 'yolo').splits['train'].count == 3


@pytest.mark.parametrize('export', [exports.ultralytics, exports.coloured])
def test_label_images_of_results_are_not_drawn_again(export: Write, tmp_path: Path) -> None:
    export(tmp_path / 'mine')
    out, before = tmp_path / 'project', find_seg_data(tmp_path / 'mine').drawing
    write({}, out, before)
    (out / 'work/teacher').mkdir(parents=True)
    made = out / 'labels/train/b.png'
    made.unlink()
    write({}, out, before)
    drawn, time = made.read_bytes(), made.stat().st_mtime_ns
    assert 'made from the same source' in write({}, out, before)[0] and made.stat().st_mtime_ns == time
    changed = next((tmp_path / 'mine').glob('*/train/a b.[tp][xn][tg]'))
    changed.write_bytes(changed.with_stem('b').read_bytes())
    with pytest.raises(FileExistsError, match='the label images in labels exist .* another --out. .*work holds'):
        write({}, out, find_seg_data(tmp_path / 'mine').drawing)
    assert made.read_bytes() == drawn
    (out / 'work/teacher').rmdir()
    assert '6 label images, made from' in write({}, out, find_seg_data(tmp_path / 'mine').drawing)[0]


# The split


def test_lists_of_names_are_kept(tmp_path: Path) -> None:
    exports.voc_masks(tmp_path)
    exports.picture(tmp_path / 'JPEGImages/more.jpg')
    Image.fromarray(truth('more')).save(tmp_path / 'SegmentationClass/more.png')
    data = find_seg_data(tmp_path)
    assert stems(data) == NAMES
    assert 'the tree VOC: 7 pictures, 6 used; 7 label images, 6 used' in data.notes
    assert any(note.startswith('WARNING: 1 of 7 pictures are in no list; they are left out (') for note in data.notes)
    other = tmp_path / 'other'
    exports.voc_masks(other / 'masks')
    lists = other / 'masks/ImageSets/Segmentation'
    (lists / 'train.txt').rename(lists / 'trainval.txt')
    (lists / 'val.txt').rename(lists / 'test.txt')
    seg = find_seg_data(other / 'masks')
    assert set(seg.splits['train'].names) == set(PARTS['train']) and seg.splits['val'] == seg.splits['test']


def test_a_split_is_chosen_or_drawn_by_the_user(tmp_path: Path) -> None:
    exports.voc_masks(tmp_path / 'mine')
    exports.write(tmp_path / 'own/train.txt', 'a b\nb\nd\n')
    exports.write(tmp_path / 'own/dev.csv', 'name\ne.jpg\n')  # read before train.txt
    data = find_seg_data(tmp_path / 'mine', rule=SplitRule.read(str(tmp_path / 'own')))
    assert [(part, *split.names) for part, split in data.splits.items()] == [('train', 'a b', 'b', 'd'), ('val', 'e')]
    assert counts(find_seg_data(tmp_path / 'mine', rule=SplitRule.read('0.5'))) == {'train': 3, 'val': 3}
    exports.ultralytics(tmp_path / 'yolo')
    assert counts(find_box_data(tmp_path / 'yolo', rule=SplitRule.read('0.7'))) == {'train': 2, 'val': 4}
    for rule, message in (('1.5', 'between 0 and 1'), (str(tmp_path / 'no'), 'no such folder')):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            SplitRule.read(rule)
    with pytest.raises(FileNotFoundError, match='no list in it'):
        find_seg_data(tmp_path / 'mine', rule=SplitRule.read(str(tmp_path / 'mine/SegmentationClass')))


def test_label_images_are_drawn_again_after_a_change(tmp_path: Path) -> None:
    exports.coloured(tmp_path / 'mine')
    for path in sorted((tmp_path / 'mine/masks').rglob('*.png')):  # files without compression
        Image.open(path).save(path.with_suffix('.bmp'))
        path.unlink()
    before = find_seg_data(tmp_path / 'mine')
    assert label_images(before, 'val', tmp_path / 'out')['d'].any()
    file = tmp_path / 'mine/masks/val/d.bmp'
    length = file.stat().st_size
    Image.new('RGB', Image.open(file).size, exports.COLOURS[2]).save(file)
    assert file.stat().st_size == length
    after = find_seg_data(tmp_path / 'mine')
    assert after.drawing and before.drawing and after.drawing.stamp != before.drawing.stamp
    assert (label_images(after, 'val', tmp_path / 'out')['d'] == 3).all()
