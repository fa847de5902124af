"""What is found in a folder of pictures and label files of boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmdistill_dense.project.box_labels import find_box_data
from tests.project.folders_of_data import box_folder, label_file, picture


def test_label_files_and_their_pictures_are_found(tmp_path: Path) -> None:
    data = find_box_data(box_folder(tmp_path))
    assert data.splits['train'].labels == 'annotations/instances_train.json'
    assert data.splits['train'].pictures == 'train/' and data.splits['val'].count == 2
    assert data.classes == ('red', 'white') and data.size == (48, 64) and not data.masks


def test_masks_are_noticed(tmp_path: Path) -> None:
    assert find_box_data(box_folder(tmp_path, masks=True)).masks


def test_one_label_file_is_divided(tmp_path: Path) -> None:
    names = [f'pictures/{number}.jpg' for number in range(10)]
    for name in names:
        picture(tmp_path / name)
    file = tmp_path / 'export.json'
    file.write_text(json.dumps(label_file(names, ['cell'])))
    data = find_box_data(file)
    parts = [json.loads(data.splits[name].content) for name in ('train', 'val')]
    assert [len(part['images']) for part in parts] == [8, 2]
    assert [len(part['annotations']) for part in parts] == [16, 4]
    assert data.splits['train'].pictures == ''


def test_categories_without_boxes_are_left_out_and_said(tmp_path: Path) -> None:
    file = box_folder(tmp_path) / 'annotations/instances_train.json'
    content = json.loads(file.read_text())
    content['categories'].insert(0, {'id': 9, 'name': 'everything'})
    file.write_text(json.dumps(content))
    data = find_box_data(tmp_path)
    assert data.classes == ('red', 'white')
    assert data.notes == ['left out, no box in training: everything']


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='--classes green: .*instances_train.json has no such category'):
        find_box_data(box_folder(tmp_path), ['green'])


def test_a_folder_without_label_files_says_what_is_needed(tmp_path: Path) -> None:
    picture(tmp_path / 'train/0.jpg')
    (tmp_path / 'notes.json').write_text('{}')
    with pytest.raises(FileNotFoundError, match=r'notes.json has , but no list of images.*format of COCO'):
        find_box_data(tmp_path)


def test_missing_pictures_are_counted(tmp_path: Path) -> None:
    (box_folder(tmp_path) / 'train/2.jpg').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of the 4 pictures of .* are not there: 2.jpg'):
        find_box_data(tmp_path)
