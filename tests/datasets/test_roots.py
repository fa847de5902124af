"""A missing data set is one clear error that names the key, the path and the variable."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.datasets.folders import require
from mmdistill_dense.registry import DATASETS

FOLDERS = {
    'CamVidDataset': dict(img_path='images/train', seg_map_path='annotations/train'),
    'CityscapesDataset': dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
    'PascalVOCDataset': dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    'ADE20KDataset': dict(img_path='images/training', seg_map_path='annotations/training'),
    'COCOStuffDataset': dict(img_path='images/train2017', seg_map_path='annotations/train2017'),
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
    assert 'environment variable MMDISTILL_DATA' in str(caught.value)


def test_missing_list_file(tmp_path: Path) -> None:
    init_default_scope('mmseg')
    for folder in FOLDERS['PascalVOCDataset'].values():
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match='PascalVOCDataset: ann_file = .*train.txt'):
        DATASETS.build(option('PascalVOCDataset', tmp_path))


def test_a_misspelt_folder_is_shown_beside_those_that_exist(tmp_path: Path) -> None:
    (tmp_path / 'streets/train').mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match=rf"The folder '{tmp_path}' exists and holds streets\. Correct data_root"
    ):
        require({'data_prefix.img_path': str(tmp_path / 'street/train')}, 'X')


def test_remote_paths_are_not_looked_for() -> None:
    require({'data_prefix.img_path': 's3://bucket/cityscapes', 'data_prefix.seg_map_path': '', 'ann_file': None}, 'X')


def test_every_way_out_of_the_message_works(tmp_path: Path) -> None:
    """For a plain loader and for one that joins two data sets."""
    cfg = Config.fromfile(find_config('mmdistill_dense::afdcd/deeplabv3_r101_to_r18_voc.py'))
    init_default_scope('mmseg')
    with pytest.raises(FileNotFoundError) as caught:
        DATASETS.build(cfg.train_dataloader.dataset)
    keys = re.findall(r'(\S+)=DIR', str(caught.value))
    assert keys == ['test_dataloader.dataset.data_root', 'train_dataloader.dataset.datasets.0.data_root']
    cfg.merge_from_dict({key: str(tmp_path) for key in [*keys, keys[-1].replace('.0.', '.1.')]})
    for dataset in (cfg.test_dataloader.dataset, *cfg.train_dataloader.dataset.datasets):
        with pytest.raises(FileNotFoundError, match=f'= .{tmp_path}/JPEGImages'):
            DATASETS.build(dataset)
