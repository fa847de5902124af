"""A missing data set is one clear error that names the key, the path and the variable."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.datasets import check_data_roots
from mmdistill_dense.registry import DATASETS

FOLDERS = {
    'CamVidDataset': dict(img_path='images/train', seg_map_path='annotations/train'),
    'CityscapesDataset': dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
    'PascalVOCDataset': dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    'ADE20KDataset': dict(img_path='images/training', seg_map_path='annotations/training'),
}


def option(name: str, root: Path) -> dict:
    extra = dict(ann_file='ImageSets/Segmentation/train.txt') if name == 'PascalVOCDataset' else {}
    return dict(type=f'mmdistill_dense.{name}', data_root=str(root), data_prefix=dict(FOLDERS[name]), **extra)


@pytest.mark.parametrize('name', FOLDERS)
def test_data_set_names_what_is_missing(tmp_path: Path, name: str) -> None:
    init_default_scope('mmseg')
    expected = rf'{name}: data_prefix.img_path = .*{tmp_path.name}/{FOLDERS[name]["img_path"]}.* does not exist'
    with pytest.raises(FileNotFoundError, match=expected) as caught:
        DATASETS.build(option(name, tmp_path))
    for hint in ('MMDISTILL_DATA', 'train_dataloader.dataset.data_root='):
        assert hint in str(caught.value)


def test_missing_list_file(tmp_path: Path) -> None:
    init_default_scope('mmseg')
    for folder in FOLDERS['PascalVOCDataset'].values():
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match='PascalVOCDataset: ann_file = .*train.txt'):
        DATASETS.build(option('PascalVOCDataset', tmp_path))


def test_check_of_a_config(tmp_path: Path) -> None:
    there, missing = option('CamVidDataset', tmp_path), option('CityscapesDataset', tmp_path / 'nowhere')
    for folder in FOLDERS['CamVidDataset'].values():
        (tmp_path / folder).mkdir(parents=True)
    joined = dict(type='ConcatDataset', datasets=[there, dict(type='RepeatDataset', times=2, dataset=missing)])
    cfg = Config(dict(train_dataloader=dict(dataset=there), val_dataloader=dict(dataset=joined)))
    check_data_roots(cfg, ['train_dataloader'])
    with pytest.raises(FileNotFoundError, match=r'val_dataloader.dataset.datasets.1.dataset: data_root = .*nowhere'):
        check_data_roots(cfg)


def test_remote_and_generated_data_are_not_looked_for() -> None:
    remote = dict(type='CityscapesDataset', data_root='s3://bucket/cityscapes', data_prefix=dict(img_path='train'))
    shapes = dict(type='mmdistill_dense.ShapesSegDataset', num_images=3)
    check_data_roots(
        Config(dict(train_dataloader=dict(dataset=shapes), val_dataloader=dict(dataset=remote), test_dataloader=None))
    )
