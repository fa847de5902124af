"""The parts train, val and test share no picture, or `new` warns of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmdistill_dense.apps.project.box_labels import find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.apps.project.new import shared
from mmdistill_dense.apps.project.picture_folders import two_parts
from tests.project.folders_of_data import label, labelled, picture, seg_folder


def coco(root: Path) -> None:
    for part, count in (('trainval', 4), ('test', 2)):
        names = [f'{part}/{number}.jpg' for number in range(count)]
        (root / f'instances_{part}2007.json').write_text(json.dumps(labelled(root, names)))


def yolo(root: Path) -> None:
    for part, count in (('trainval', 4), ('test', 2)):
        for number in range(count):
            picture(root / f'images/{part}/{part}{number}.jpg')
            text = root / f'labels/{part}/{part}{number}.txt'
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text('0 0.5 0.5 0.25 0.25\n')


def masks(root: Path) -> None:
    for part, count in (('trainval', 4), ('test', 2)):
        for number in range(count):
            picture(root / f'images/{part}/{part}{number}.jpg', number)
            label(root / f'labels/{part}/{part}{number}.png', seed=number)


@pytest.mark.parametrize(('write', 'find'), [(coco, find_box_data), (yolo, find_box_data), (masks, find_seg_data)])
def test_pictures_of_no_part_beside_those_for_test_train(write: Any, find: Any, tmp_path: Path) -> None:
    write(tmp_path)
    splits = find(tmp_path).splits
    assert splits['train'].count == 4 and splits['test'].count == splits['val'].count == 2


def test_versions_of_one_picture_stay_in_one_part() -> None:
    """As Roboflow writes them, several of each picture."""
    names = [f'img{number}_jpg.rf.{version}.jpg' for number in range(9) for version in 'abc']
    train, val = two_parts(names, Path('data'), 0.3)
    assert sorted(train + val) == sorted(names) and len(val) == 9
    assert not {one.partition('.rf.')[0] for one in train} & {one.partition('.rf.')[0] for one in val}
    assert [len(own) for own in two_parts(names[:3], Path('data'))] == [2, 1], 'versions of a single picture'


def test_pictures_for_test_that_validate_are_told(tmp_path: Path) -> None:
    root = seg_folder(tmp_path, splits=('train', 'val'))
    for folder in ('images', 'labels'):
        shutil.copytree(root / folder / 'val', root / folder / 'test')
    files = find_seg_data(root).pictures
    assert [one for one in shared(files) if 'for test also validate' in one]
    assert not [*shared({'train': files['train'], 'val': files['val'], 'test': files['val']})]
    assert len([*shared({'train': files['val'], 'val': files['val']})]) == 1


def test_a_part_that_shows_one_class_is_told(tmp_path: Path) -> None:
    root = seg_folder(tmp_path, splits=('train', 'val'))
    for file in (root / 'labels/val').iterdir():
        Image.new('L', Image.open(file).size).save(file)
    assert any('the label images for val that were looked at show' in one for one in find_seg_data(root).notes)


def test_a_tiff_with_an_orientation_is_refused(tmp_path: Path) -> None:
    root = seg_folder(tmp_path, splits=('train', 'val'))
    first = next((root / 'images/train').iterdir())
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(first) as opened:
        opened.save(first.with_suffix('.tif'), exif=exif)
    first.unlink()
    with pytest.raises(ValueError, match=r'\.tif is a TIFF with an orientation'):
        find_seg_data(root)
