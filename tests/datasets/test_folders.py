"""A folder of one's own: what does not match is said before the first picture is read."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.dataset import RepeatDataset

from mmdistill_dense.datasets import SegFolderDataset
from mmdistill_dense.datasets.wrapped import label_stamp

CLASSES = dict(classes=('background', 'leaf'), palette=[(0, 0, 0), (0, 160, 0)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pictures and their labels."""
    for folder, suffix in (('images', '.jpg'), ('labels', '.png')):
        (tmp_path / folder).mkdir()
        for index in range(3):
            cv2.imwrite(str(tmp_path / folder / f'{index}{suffix}'), np.zeros((8, 8), np.uint8))
    return tmp_path


def folder(root: Path, **options: Any) -> SegFolderDataset:
    prefix = dict(img_path='images', seg_map_path='labels')
    given = dict(data_root=str(root), data_prefix=prefix, metainfo=CLASSES, pipeline=[])
    return SegFolderDataset(**given | options)


def test_every_picture_is_listed_with_its_label(root: Path) -> None:
    data = folder(root)
    assert len(data) == 3
    assert [Path(data.get_data_info(i)['seg_map_path']).name for i in range(3)] == ['0.png', '1.png', '2.png']


BYTES = r'label_values=.* must be different whole numbers from 0 to 255'


@pytest.mark.parametrize(('options', 'kind', 'words'), [
    (dict(img_suffix='.jpeg'), FileNotFoundError, r"img_suffix='\.jpeg'.*0\.jpg"),  # and a file that is there
    (dict(img_suffix=('.a', '.b')), FileNotFoundError, r"img_suffix='\.a' or '\.b'"),
    (dict(data_prefix=dict(img_path='pictures')), FileNotFoundError, r'data_prefix\.img_path.*MMDISTILL_DATA'),
    (dict(label_values=(0,)), ValueError, r'=\(0,\) must have one value for each of the 2 metainfo.classes, not 1'),
    (dict(label_values=(1, 1)), ValueError, BYTES),
    (dict(label_values=(0, 256)), ValueError, BYTES),
    (dict(label_values=(-1, 0)), ValueError, BYTES),
    (dict(label_values=('0', '1')), ValueError, BYTES),
    # mmseg reduces first: class 1 of the file would be ignored, and its name given to class 2.
    (dict(label_values=(1, 2), ignore_index=0), ValueError, r'ignore_index=0 is the number of a class, and the label'),
    (dict(label_values=(1, 2), reduce_zero_label=True), ValueError, r'=True changes labels before .*values=\(1, 2\)'),
])  # fmt: skip
def test_options_that_do_not_match_the_folder_are_refused(root: Path, options: dict, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        folder(root, **options)


def test_pictures_without_labels_are_counted(root: Path) -> None:
    (root / 'labels/1.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 3 .*labels/1\.png'):
        folder(root)


def test_pictures_to_be_predicted_need_no_labels(root: Path) -> None:
    assert len(folder(root, data_prefix=dict(img_path='images'))) == 3


def test_label_values_become_numbers_of_classes_and_others_are_ignored(root: Path) -> None:
    label = np.array([[0, 255, 7]], np.uint8).repeat(8, 0)
    cv2.imwrite(str(root / 'labels/0.png'), label)
    cv2.imwrite(str(root / 'images/0.jpg'), np.zeros((8, 3), np.uint8))
    load = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]
    data = folder(root, label_values=(0, 255), pipeline=load)
    assert data[0]['gt_seg_map'][0].tolist() == [0, 1, 255]


def test_pictures_of_several_endings_are_read(root: Path) -> None:
    """Of a folder and of a list; of two pictures of one name, that of the first ending."""
    (root / 'images/1.jpg').rename(root / 'images/1.PNG')
    (root / 'images/2.PNG').write_bytes((root / 'images/2.jpg').read_bytes())
    (root / 'list.txt').write_text('2\n1\n')
    names = [['0.jpg', '1.PNG', '2.jpg'], ['2.jpg', '1.PNG']]
    for expected, options in zip(names, ({}, {'ann_file': 'list.txt'}), strict=True):
        data = folder(root, img_suffix=('.jpg', '.PNG'), **options)
        entries = [data.get_data_info(number) for number in range(len(data))]
        assert [Path(one['img_path']).name for one in entries] == expected
        assert [Path(one['seg_map_path']).stem for one in entries] == [name[0] for name in expected]


def test_labels_have_a_stamp_that_changes_with_them_alone(root: Path) -> None:
    before = label_stamp(folder(root))
    assert label_stamp(RepeatDataset(folder(root), 2)) == before
    cv2.imwrite(str(root / 'images/1.jpg'), np.ones((80, 80), np.uint8))
    moved = root.rename(root.with_name('moved'))
    assert label_stamp(folder(moved)) == before
    cv2.imwrite(str(moved / 'labels/1.png'), np.eye(8, dtype=np.uint8))
    changed = label_stamp(folder(moved))
    (moved / 'list.txt').write_text('0\n2\n')
    assert len({before, changed, label_stamp(folder(moved, ann_file='list.txt'))}) == 3
