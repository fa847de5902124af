"""The parts train, val and test, a folder of which only a part is labelled, and the pictures of ``--unlabelled``."""

import json
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.project.box_labels import find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.apps.project.label_pairs import Patterns
from mmdistill_dense.apps.project.new import shared
from mmdistill_dense.apps.project.splits import draw_split, free_pictures
from mmdistill_dense.unlabelled.pictures import UnlabeledImages
from tests.project.commands import toy_pair
from tests.project.exports import write
from tests.project.folders_of_data import box_folder, label, label_file, labelled, picture, seg_folder


@pytest.mark.parametrize('form', ['coco', 'yolo', 'masks'])
def test_pictures_of_no_part_beside_those_for_test_train(form: str, tmp_path: Path) -> None:
    for part, count in (('trainval', 4), ('test', 2)):
        names = [f'{part}/{part}{number}' for number in range(count)]
        content = labelled(tmp_path / 'images', [f'{name}.jpg' for name in names])
        if form == 'coco':
            (tmp_path / f'images/instances_{part}2007.json').write_text(json.dumps(content))
        for name in names:
            if form == 'yolo':
                write(tmp_path / f'labels/{name}.txt', '0 0.5 0.5 0.25 0.25\n')
            elif form == 'masks':
                label(tmp_path / f'labels/{name}.png')
    splits = (find_seg_data if form == 'masks' else find_box_data)(tmp_path).splits
    assert splits['train'].count == 4 and splits['test'].count == splits['val'].count == 2


def test_versions_of_one_picture_stay_in_one_part() -> None:
    """As Roboflow writes them, several of each picture."""
    names = [f'img{number}_jpg.rf.{version}.jpg' for number in range(9) for version in 'abc']
    train, val = draw_split(names, Path('data'), 0.3)
    assert sorted(train + val) == sorted(names) and len(val) == 9
    assert not {one.partition('.rf.')[0] for one in train} & {one.partition('.rf.')[0] for one in val}
    assert [len(own) for own in draw_split(names[:3], Path('data'))] == [2, 1], 'versions of a single picture'


def test_pictures_for_test_that_validate_are_told(tmp_path: Path) -> None:
    root = seg_folder(tmp_path, splits=('train', 'val'))
    for folder in ('images', 'labels'):
        shutil.copytree(root / folder / 'val', root / folder / 'test')
    files = find_seg_data(root).pictures
    assert [note for note in shared(files) if 'for test also validate' in note]
    assert not [*shared({'train': files['train'], 'val': files['val'], 'test': files['val']})]
    assert [len([*shared({'train': files['val'], part: files['val']})]) for part in ('val', 'test')] == [1, 1]


def test_a_part_that_shows_one_class_is_told(tmp_path: Path) -> None:
    root = seg_folder(tmp_path, splits=('train', 'val'))
    for file in (root / 'labels/val').iterdir():
        Image.new('L', Image.open(file).size).save(file)
    assert any('the label images for val that were looked at show' in note for note in find_seg_data(root).notes)
    other = tmp_path / 'other'
    root = seg_folder(other, splits=('train', 'val'))
    first = next((root / 'images/train').iterdir())
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(first) as opened:
        opened.save(first.with_suffix('.tif'), exif=exif)
    first.unlink()
    with pytest.raises(ValueError, match=r'\.tif is a TIFF with an orientation'):
        find_seg_data(root)


# Pictures without labels

PHOTOS = Patterns.from_options('photos/**', 'photo masks/**')


def partly(root: Path, pictures: int, labels: int) -> Path:
    """``photos/*/X.jpg``, of which some have a label image."""
    for number in range(pictures):
        name = f'cam {number % 2}/frame_{number:03}'
        picture(root / f'photos/{name}.jpg', number)
        if number < labels:
            label(root / f'photo masks/{name}.png', seed=number)
    return root


def test_pictures_without_labels_are_left_out(tmp_path: Path) -> None:
    data = find_seg_data(partly(tmp_path, 12, 10), patterns=PHOTOS)
    names = {name: set(split.names) for name, split in data.splits.items()}
    assert {name: len(names_of_part) for name, names_of_part in names.items()} == {'train': 8, 'val': 2}
    assert not {'cam 0/frame_010', 'cam 1/frame_011'} & (names['train'] | names['val'])
    text = 'have no label image; they are left out (photos/cam 0/frame_010.jpg, photos/cam 1/frame_011.jpg)'
    assert f'WARNING: 2 of 12 pictures {text}' in data.notes
    assert f'--unlabelled {tmp_path}/photos teaches on pictures without a label image' in data.notes


def test_missing_labels_leave_lists(tmp_path: Path) -> None:
    (seg_folder(tmp_path) / 'labels/train/3.png').unlink()
    data = find_seg_data(tmp_path)
    assert data.splits['train'].names == ('0', '1', '2') and data.splits['train'].count == 3
    assert data.splits['val'].names == ()
    other = tmp_path / 'other'
    for old, new in (('cam 1/frame_001', 'cam 1/frame_01'), ('cam 0/frame_002', 'frame_002')):
        labels = partly(other / Path(new).name, 12, 10) / 'photo masks'
        (labels / f'{old}.png').rename(labels / f'{new}.png')
        text = r'3 of 12 pictures .* and 1 label images have no picture .*names may'
        with pytest.raises(FileNotFoundError, match=text):
            find_seg_data(labels.parent, patterns=PHOTOS)
    with pytest.raises(FileNotFoundError, match='2 of 12 pictures have a label image, and 3 are needed'):
        find_seg_data(partly(other / 'few', 12, 2), patterns=PHOTOS)


@pytest.mark.parametrize('folder', ['photos', '.'])
def test_the_tree_of_the_data_teaches_without_its_own_pictures(tmp_path: Path, folder: str) -> None:
    data = find_seg_data(partly(tmp_path, 14, 10), patterns=PHOTOS)
    free = free_pictures(str(tmp_path / folder), data.pictures, data.label_images, 4)
    assert [Path(name).stem for name in free.names] == ['frame_010', 'frame_012', 'frame_011', 'frame_013']
    assert '2 of val, 8 of train' in free.left_out and ('10 label images' in free.left_out) == (folder == '.')


def test_copies_of_test_pictures_are_left_out(tmp_path: Path) -> None:
    data = find_seg_data(seg_folder(tmp_path / 'mine', splits=('train', 'val', 'test')))
    for number in range(4):
        picture(tmp_path / f'more/{number}.jpg', 50 + number)
    actual = free_pictures(str(tmp_path / 'more'), data.pictures, data.label_images, 4)
    assert actual.option == {'data_root': str(tmp_path / 'more'), 'ratio': 1}
    for file in (tmp_path / 'mine/images/test').iterdir():
        file.write_bytes(file.read_bytes().ljust(99_999))  # of one length
        shutil.copy(file, tmp_path / f'more/copy_{file.name}')
    names = free_pictures(str(tmp_path / 'more'), data.pictures, data.label_images, 4).names
    assert not [name for name in names if 'copy' in name]
    for part in ('val', 'test'):
        text = f'2 pictures .* of which 2 of {part} cannot be taught on: 0 are left; a step'
        with pytest.raises(ValueError, match=text):
            free_pictures(str(tmp_path / 'mine/images' / part), data.pictures, data.label_images, 2)


@pytest.mark.parametrize('above', ['', 'segdata/'])
def test_label_images_of_other_data_are_no_pictures(tmp_path: Path, above: str) -> None:
    data = find_seg_data(seg_folder(tmp_path / 'mine'))
    for number in range(3):
        picture(tmp_path / f'others/{above}images/{number}.jpg', 50 + number)
        label(tmp_path / f'others/{above}masks/{number}.png', seed=number)
    free = free_pictures(str(tmp_path / 'others'), data.pictures, data.label_images, 2)
    assert free.names == tuple(f'{above}images/{number}.jpg' for number in range(3))
    assert free.left_out == '3 label images'
    picture(tmp_path / 'others/drawn/more/0.jpg')  # of `predict`
    (tmp_path / 'others/drawn/.predicted').touch()
    again = free_pictures(str(tmp_path / 'others'), data.pictures, data.label_images, 2)
    assert again.names == free.names and '1 of projects and of `predict`' in again.left_out
    with pytest.raises(ValueError, match='0 pictures in it'):
        free_pictures(str(tmp_path / 'mine/empty'), data.pictures, data.label_images, 2)


def test_pictures_that_no_label_file_lists(tmp_path: Path) -> None:
    names = [f'pictures/{number}.jpg' for number in range(9)]
    for number, name in enumerate([*names, 'pictures/more/a.jpg', 'pictures/more/b.jpg']):
        picture(tmp_path / name, number)
    content = label_file(names, ['cell'])
    content['annotations'] = [entry for entry in content['annotations'] if entry['image_id'] < 8]  # the last has no box
    (tmp_path / 'labels.json').write_text(json.dumps(content))
    data = find_box_data(tmp_path)
    assert sum(split.count for split in data.splits.values()) == 9
    assert any('2 of 11 pictures have no labels in any file' in note for note in data.notes)
    assert f'--unlabelled {tmp_path}/pictures/more teaches on pictures without labels' in data.notes
    label(tmp_path / 'masks/a.png')  # of another task: such folders are known by their names
    free = free_pictures(str(tmp_path), data.pictures, data.label_images, 2)
    assert free.names == ('pictures/more/a.jpg', 'pictures/more/b.jpg') and '1 label images' in free.left_out
    assert not any('no label file' in note for note in find_box_data(box_folder(tmp_path / 'whole')).notes)


def test_the_list_is_read(folder: Path) -> None:
    partly(Path('mine'), 14, 10)
    student, teacher = toy_pair()
    words = ['--data', 'mine', '--student', student, '--teacher', teacher, '--out', 'project', '--batch', '2']
    words += ['--images', 'photos/**', '--labels', 'photo masks/**']
    assert main(['new', *words, '--unlabelled', 'mine/photos']) == 0
    option = Config.fromfile('project/kd.py').model.unlabelled
    assert option.ann_file == str(folder / 'project/unlabelled.txt')
    assert len(UnlabeledImages(data_root=option.data_root, ann_file=option.ann_file, pipeline=[])) == 4
