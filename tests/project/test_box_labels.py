"""What is found in a folder of pictures and label files of boxes."""

import codecs
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmdistill_dense.apps.project.box_labels import find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.apps.project.new import shared, write
from mmdistill_dense.apps.project.splits import SplitRule
from tests.project import exports
from tests.project.folders_of_data import (
    box_folder,
    changed,
    counts,
    label,
    label_file,
    labelled,
    picture,
    seg_folder,
    text,
)


def test_label_files_behind_links_are_read(tmp_path: Path) -> None:
    box_folder(tmp_path / 'mine')
    (tmp_path / 'mine/annotations').rename(tmp_path / 'elsewhere')
    (tmp_path / 'mine/annotations').symlink_to(tmp_path / 'elsewhere')
    data = find_box_data(tmp_path / 'mine')
    assert data.splits['train'].labels == 'annotations/instances_train.json'
    assert data.splits['train'].pictures == 'train/' and counts(data) == {'train': 4, 'val': 2}
    assert data.classes == ('red', 'white') and data.size == (48, 64) and not data.masks


@pytest.mark.parametrize('place', ['export.json', 'annotations/all.json'])
def test_one_label_file_is_divided(place: str, tmp_path: Path) -> None:
    names, file = [f'pictures/{number}.jpg' for number in range(10)], tmp_path / place
    file.parent.mkdir(exist_ok=True)
    words = names if file.parent == tmp_path else [str(tmp_path / name) for name in names]
    file.write_text(json.dumps(labelled(tmp_path, words)))
    data = find_box_data(file)
    assert data.root == tmp_path and data.splits['train'].pictures == ''
    parts = [json.loads(data.splits[name].content) for name in ('train', 'val')]
    assert [len(part['images']) for part in parts] == [8, 2]
    assert [len(part['annotations']) for part in parts] == [16, 4]


@pytest.mark.parametrize('layout', [
    'images/{0}:annotations/{0}', '{0}2017:annotations/instances_{0}2017', '{0}/images:{0}/labels',
])  # fmt: skip
def test_splits_may_reuse_names(tmp_path: Path, layout: str) -> None:
    for split, count in (('val', 2), ('train', 4)):
        pictures, labels = (tmp_path / part.format(split) for part in layout.split(':'))
        for number in range(count):
            picture(pictures / f'{number}.jpg')
        content = label_file([f'{number}.jpg' for number in range(count)], ['a'])
        exports.write(labels.with_suffix('.json'), json.dumps(content))
    data = find_box_data(tmp_path)
    for split in ('train', 'val'):
        assert data.splits[split].pictures == layout.split(':')[0].format(split) + '/'
    assert data.notes == [f'COCO ({tmp_path}): 2 files; 6 pictures; 12 annotations']


@pytest.mark.parametrize('task', ['seg', 'det'])
@pytest.mark.parametrize('how', ['copy', 'link', 'same file'])
def test_pictures_of_training_that_validate_are_warned_of(tmp_path: Path, task: str, how: str) -> None:
    if task == 'seg':
        root = seg_folder(tmp_path, splits=('train', 'val', 'test'))
        first, other = root / 'images/train/0.jpg', root / 'images/val/1.jpg'
    else:
        root = box_folder(tmp_path)
        first, other = root / 'train/0.jpg', root / 'val/1.jpg'
    find = find_seg_data if task == 'seg' else find_box_data
    assert not list(shared(find(root).pictures))
    if how == 'same file' and task == 'det':
        changed(root, lambda content: content['images'][0].update(file_name='../train/0.jpg'), ['val'])
        changed(root, lambda content: content['images'][1].update(file_name='../val/1.jpg'), ['val'])
    else:
        other.unlink()
        (shutil.copy if how == 'copy' else os.symlink if how == 'link' else os.link)(first, other)
    (words,) = shared(find(root).pictures)
    assert words.startswith('WARNING: 1 of the 2 pictures for val also train (') and str(first) in words


def test_both_parts_of_a_divided_file_have_boxes_that_count(tmp_path: Path) -> None:
    """A picture that is listed once for each of its boxes is in one part."""
    names = [f'{number}.jpg' for number in range(10)]
    content = labelled(tmp_path, names)
    content['annotations'] = [entry for entry in content['annotations'] if entry['image_id'] < 3]
    content['images'].append(dict(content['images'][0], id=99))
    (tmp_path / 'labels.json').write_text(json.dumps(content))
    data = find_box_data(tmp_path)
    parts = [json.loads(data.splits[name].content) for name in ('train', 'val')]
    assert all(part['annotations'] for part in parts)
    files = [{image['file_name'] for image in part['images']} for part in parts]
    assert not files[0] & files[1] and files[0] | files[1] == set(names)


def test_names_relative_to_a_folder_that_holds_folders_alone(tmp_path: Path) -> None:
    names = [f'slide {number % 2}/{number}.png' for number in range(6)]
    (tmp_path / 'my labels.json').write_text(json.dumps(labelled(tmp_path / 'scans/2024', names)))
    assert find_box_data(tmp_path).splits['train'].pictures == 'scans/2024/'
    (tmp_path / 'scans/2024' / names[0]).unlink()
    with pytest.raises(
        FileNotFoundError, match='looked in .*scans/2024/slide 0, .*scans/2024, .*A file_name is a path'
    ):
        find_box_data(tmp_path)


def test_masks_are_those_of_all_files(tmp_path: Path) -> None:
    assert find_box_data(box_folder(tmp_path, masks=True)).masks
    changed(tmp_path, lambda content: content['annotations'][0].pop('segmentation'), ['val'])
    assert not find_box_data(tmp_path).masks
    other = tmp_path / 'other'
    picture(other / 'train/0.jpg')
    (other / 'notes.json').write_text('{}')
    with pytest.raises(FileNotFoundError, match=r'notes.json has , but no list of images.*json files of COCO'):
        find_box_data(other)


def test_what_predict_wrote_is_no_data(tmp_path: Path) -> None:
    exports.ultralytics(tmp_path)
    (tmp_path / 'predictions').mkdir()
    (tmp_path / 'predictions/notes.md').touch()  # of the user's
    alone = find_box_data(tmp_path)
    assert ', 1 not read (predictions/notes.md); ' in alone.notes[0]
    picture(tmp_path / 'predictions/drawn/images/train/b.jpg')
    boxes = label_file(['images/train/b.jpg'], ['cell'])
    scored = {**boxes, 'annotations': [{**entry, 'score': 0.9} for entry in boxes['annotations']]}
    (tmp_path / 'predictions/predictions.json').write_text(json.dumps(scored))
    (tmp_path / 'predictions/drawn/.predicted').touch()
    assert find_box_data(tmp_path) == alone
    (tmp_path / 'kept.json').write_text(json.dumps(scored))
    actual = find_box_data(tmp_path)
    words = 'WARNING: 1 of .*have annotations with a score.*kept.json'
    assert actual.splits == alone.splits and any(re.match(words, note) for note in actual.notes)
    seg = seg_folder(tmp_path / 'seg')
    without = find_seg_data(seg)
    picture(seg / 'out/drawn/images/train/0.jpg')
    label(seg / 'out/labels/images/train/0.png')
    (seg / 'out/data.csv').touch()
    for name in ('drawn', 'labels'):
        (seg / 'out' / name / '.predicted').touch()
    assert find_seg_data(seg) == without


def test_a_split_of_the_user_takes_the_place_of_yolos(tmp_path: Path) -> None:
    """Ultralytics' first examples validate on the pictures that they train on."""
    exports.ultralytics(tmp_path)
    text('data.yaml', 'images/val', 'images/train')(tmp_path)
    with pytest.raises(ValueError, match='pictures are in two parts of .*data.yaml.*--split 0.2'):
        find_box_data(tmp_path)
    assert counts(find_box_data(tmp_path, rule=SplitRule.read('0.4'))) == {'train': 4, 'val': 2}
    with pytest.raises(ValueError, match='--split: the files for train, val are a split. Leave'):
        find_box_data(box_folder(tmp_path / 'files'), rule=SplitRule.read('0.4'))


@pytest.mark.parametrize('beside', [False, True])
def test_a_picture_called_test_has_labels(beside: bool, tmp_path: Path) -> None:
    pictures, labels = (tmp_path, tmp_path) if beside else (tmp_path / 'images', tmp_path / 'labels')
    for name in ('test', 'a', 'b', 'c'):
        picture(pictures / f'{name}.jpg')
        exports.write(labels / f'{name}.txt', '0 0.5 0.5 0.2 0.2\n')
    assert sum(split.count for split in find_box_data(tmp_path, ['cell']).splits.values()) == 4


def test_a_byte_order_mark_hides_no_objects(tmp_path: Path) -> None:
    exports.ultralytics(tmp_path)
    alone = find_box_data(tmp_path)
    for file in tmp_path.glob('labels/*/*.txt'):
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert find_box_data(tmp_path) == alone


@pytest.mark.parametrize(('least', 'left'), [(1, 0), (0.4, 1), (0, 1)])
def test_corners_of_voc_below_1_are_counted_from_0(least: float, left: int, tmp_path: Path) -> None:
    exports.voc_xml(tmp_path)
    exports.voc_file(tmp_path / 'Annotations/b.xml', 'b.jpg', ('leaf', (1, least, 30, 20)))
    data = find_box_data(tmp_path)
    assert any('corners are counted from 0' in note for note in data.notes) == (least < 1)
    content = json.loads(data.splits['train'].content)
    number = next(image['id'] for image in content['images'] if image['file_name'] == 'b.jpg')
    (box,) = [entry['bbox'] for entry in content['annotations'] if entry['image_id'] == number]
    assert box[:2] == [left, max(least - (least == 1), 0)]


def test_labels_with_scores_are_read_alone(tmp_path: Path) -> None:
    file = box_folder(tmp_path) / 'annotations/instances_train.json'
    content = json.loads(file.read_text())
    for entry in content['annotations']:
        entry['score'] = 1.0
    for name in ('train', 'val'):
        file.with_name(f'instances_{name}.json').unlink()
    shutil.rmtree(tmp_path / 'val')
    file.with_name('all.json').write_text(json.dumps(content))
    for path in (tmp_path, file.with_name('all.json')):
        data = find_box_data(path)
        assert data.splits['train'].count == 3
        assert any('all.json: its annotations have a score' in note and 'passed' not in note for note in data.notes)


def test_a_refused_label_image_leaves_those_of_before(tmp_path: Path) -> None:
    exports.coloured(tmp_path / 'mine')
    drawing = find_seg_data(tmp_path / 'mine').drawing
    assert drawing is not None
    drawing.write(tmp_path / 'out')
    before = {path: path.read_bytes() for path in tmp_path.rglob('out/**/*') if path.is_file()}
    Image.new('RGB', exports.SIZE[::-1], (9, 9, 9)).save(sorted(tmp_path.glob('mine/masks/val/*'))[-1])
    with pytest.raises(ValueError, match=r'100.0% of the pixels of .*/e.png have a colour of no class'):
        write({'data.py': ''}, tmp_path / 'out', replace(drawing, stamp='another'))
    assert before and before == {path: path.read_bytes() for path in tmp_path.rglob('out/**/*') if path.is_file()}


@pytest.mark.parametrize('classes', [[1], []])
def test_labels_that_name_only_some_classes_are_told(classes: list[int], tmp_path: Path) -> None:
    """As LVIS does, which lists the classes that a picture was looked through for."""
    changed(box_folder(tmp_path), lambda content: content['images'][1].update(neg_category_ids=classes), ['train'])
    notes = [note for note in find_box_data(tmp_path).notes if 'neg_category_ids' in note]
    assert len(notes) == len(classes) and all(
        re.match('WARNING: instances_train.json: 1 pictures', note) for note in notes
    )


@pytest.mark.parametrize('read', [find_box_data, find_seg_data])
def test_the_xml_of_cvat_alone_is_refused(read: Callable[[Path], Any], tmp_path: Path) -> None:
    box_folder(tmp_path)
    (tmp_path / 'annotations.xml').write_text('<annotations><image name="0.jpg"/></annotations>')
    if read is find_box_data:
        assert read(tmp_path).splits['train'].labels == 'annotations/instances_train.json'
    shutil.rmtree(tmp_path / 'annotations')
    with pytest.raises(ValueError, match='annotations.xml: CVAT xml has left: export COCO or Pascal VOC from the same'):
        read(tmp_path)
