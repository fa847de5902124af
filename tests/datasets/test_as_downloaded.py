"""Data as their sites give them: Cityscapes' ids are read, and what lacks its label images says the command."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope

from mmdistill_dense.registry import DATASETS

IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]


def city(root: Path, *kinds: str, values: np.ndarray | None = None) -> dict:
    """One picture of Cityscapes with its label images of some kinds, and the option of its data set."""
    init_default_scope('mmseg')
    for folder in ('leftImg8bit', 'gtFine'):
        (root / folder / 'train/aachen').mkdir(parents=True)
    labels = np.arange(34, dtype=np.uint8).reshape(2, 17) if values is None else values
    cv2.imwrite(str(root / 'leftImg8bit/train/aachen/a_leftImg8bit.png'), np.zeros((*labels.shape, 3), np.uint8))
    for kind in kinds:
        cv2.imwrite(str(root / f'gtFine/train/aachen/a_gtFine_{kind}.png'), labels)
    folders = dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train')
    return dict(type='mmdistill_dense.CityscapesDataset', data_root=str(root), data_prefix=folders, pipeline=PIPELINE)


def labels_of(option: dict) -> list[int]:
    return DATASETS.build(option)[0]['data_samples'].gt_sem_seg.data.flatten().tolist()


def empty(root: Path, folders: tuple[str, str], *pictures: str) -> dict[str, str]:
    """The folders of a data set, with pictures of no content; its option for them."""
    init_default_scope('mmseg')
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for name in pictures:
        (root / folders[0] / name).touch()
    return dict(img_path=folders[0], seg_map_path=folders[1])


def test_ids_become_classes_and_the_others_are_ignored(tmp_path: Path) -> None:
    expected = [IDS.index(value) if value in IDS else 255 for value in range(34)]
    assert labels_of(city(tmp_path, 'labelIds', 'instanceIds')) == expected


def test_ids_of_chosen_classes(tmp_path: Path) -> None:
    found = labels_of(city(tmp_path, 'labelIds') | {'metainfo': dict(classes=('car', 'road'))})
    assert found == [{26: 0, 7: 1}.get(value, 255) for value in range(34)]


def test_made_label_images_are_read_where_both_are_there(tmp_path: Path) -> None:
    made = np.array([[0, 18], [255, 1]], np.uint8)
    option = city(tmp_path, 'labelIds', 'labelTrainIds', values=made)
    assert labels_of(option) == [0, 18, 255, 1]


CITY, STUFF = ('leftImg8bit/train', 'gtFine/train'), ('images/train2017', 'annotations/train2017')
ADE, VOC = ('images/training', 'annotations/training'), ('JPEGImages', 'SegmentationClassAug')


@pytest.mark.parametrize(('name', 'folders', 'told'), [
    ('CityscapesDataset', CITY, 'gtFine_trainvaltest.zip'),
    ('COCOStuffDataset', STUFF, 'mim run mmseg coco_stuff164k'),
    ('ADE20KDataset', ADE, 'X.png'),
])  # fmt: skip
def test_pictures_without_label_images_are_met_when_the_data_set_is_made(
    name: str, folders: tuple[str, str], told: str, tmp_path: Path
) -> None:
    prefix = empty(tmp_path, folders, 'X_leftImg8bit.png', 'X.jpg')
    with pytest.raises(FileNotFoundError, match='1 of 1 pictures have no label image') as caught:
        DATASETS.build(dict(type=f'mmdistill_dense.{name}', data_root=str(tmp_path), data_prefix=prefix))
    assert told in str(caught.value)


@pytest.mark.parametrize(('name', 'folders', 'ending', 'last', 'value', 'told'), [
    ('COCOStuffDataset', STUFF, '_labelTrainIds.png', 3, 181, 'coco_stuff164k'),
    ('ADE20KDataset', ADE, '.png', 150, 151, 'full ADE20K has other numbers'),
    ('PascalVOCDataset', VOC, '.png', 20, 21, 'voc_aug'),
    ('CityscapesDataset', CITY, '_gtFine_labelTrainIds.png', 3, 33, 'gtFine_trainva'),
])  # fmt: skip
def test_numbers_that_are_no_classes_are_met_when_the_data_set_is_made(
    name: str, folders: tuple[str, str], ending: str, last: int, value: int, told: str, tmp_path: Path
) -> None:
    """Those that are ignored or reduced are none of them."""
    prefix = empty(tmp_path, folders, 'X_leftImg8bit.png' if name.startswith('City') else 'X.jpg')
    (tmp_path / 'list.txt').write_text('X\n')
    listed = dict(ann_file='list.txt') if name.startswith('Pascal') else {}
    option = dict(type=f'mmdistill_dense.{name}', data_root=str(tmp_path), data_prefix=prefix, **listed)
    labels = tmp_path / folders[1] / f'X{ending}'
    cv2.imwrite(str(labels), np.array([[0, last, 255]], np.uint8))
    assert len(DATASETS.build(option)) == 1
    cv2.imwrite(str(labels), np.array([[0, value, 255]], np.uint8))
    with pytest.raises(ValueError, match=rf'{name}: .*X{ending} has the labels \d+, but .* Name the others') as caught:
        DATASETS.build(option)
    assert told in str(caught.value)
