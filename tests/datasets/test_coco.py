"""COCO's format: missing files and wrong class names are one clear error."""

import json
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.registry import DATASETS


def write(root: Path, names: tuple[str, ...] = ('disc', 'bar')) -> None:
    """A label file of one image, with one box of each class."""
    (root / 'images').mkdir()
    boxes = [
        dict(id=i, image_id=7, category_id=10 + i, bbox=[4 * i, 2, 8, 6], area=48, iscrowd=0) for i in range(len(names))
    ]
    content = dict(
        images=[dict(id=7, file_name='a.jpg', width=64, height=48)],
        annotations=boxes,
        categories=[dict(id=10 + i, name=one) for i, one in enumerate(names)],
    )
    (root / 'labels.json').write_text(json.dumps(content), encoding='utf-8')


def option(root: Path, classes: tuple[str, ...] = ('disc', 'bar')) -> dict:
    return dict(
        type='mmdistill_dense.CocoDataset', data_root=str(root), ann_file='labels.json',
        data_prefix=dict(img='images/'), metainfo=dict(classes=classes),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmdet')


def test_classes_are_numbered_in_the_order_of_the_file(tmp_path: Path) -> None:
    write(tmp_path)
    (info,) = [DATASETS.build(option(tmp_path)).get_data_info(0)]
    assert [(one['bbox_label'], one['bbox']) for one in info['instances']] == [(0, [0, 2, 8, 8]), (1, [4, 2, 12, 8])]
    only = DATASETS.build(option(tmp_path, ('bar',))).get_data_info(0)
    assert [one['bbox_label'] for one in only['instances']] == [0]


@pytest.mark.parametrize('classes', [('bar', 'disc'), ('disc', 'rod'), ('disc', 'bar', 'ring')])
def test_classes_that_are_not_the_files_are_refused(tmp_path: Path, classes: tuple[str, ...]) -> None:
    """mmdet would leave out the unknown ones, and number the others as the file does."""
    write(tmp_path)
    with pytest.raises(ValueError, match=r"metainfo.classes = .*ann_file holds the categories \['disc', 'bar'\]"):
        DATASETS.build(option(tmp_path, classes))


def test_missing_folder_and_label_file_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / 'images').rmdir()
    with pytest.raises(FileNotFoundError, match=r'CocoDataset: data_prefix.img = .*images.* does not exist'):
        DATASETS.build(option(tmp_path))
    (tmp_path / 'images').mkdir()
    (tmp_path / 'labels.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'CocoDataset: ann_file = .*labels.json.*MMDISTILL_DATA'):
        DATASETS.build(option(tmp_path))


def test_message_names_the_evaluator_that_reads_the_labels_too(tmp_path: Path) -> None:
    cfg = Config.fromfile(find_config('mmdistill_dense::_base_/datasets/bccd.py'))
    cfg.test_dataloader.dataset.data_root = str(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        DATASETS.build(cfg.test_dataloader.dataset)
    (key,) = re.findall(r'(\S+)=FILE', str(caught.value))
    before = cfg.test_evaluator.ann_file
    cfg.merge_from_dict({key: 'elsewhere.json'})
    assert cfg.test_evaluator.ann_file == 'elsewhere.json' != before


def test_boxes_given_as_two_corners_are_refused(tmp_path: Path) -> None:
    """mmdet trains on them in silence."""
    write(tmp_path)
    content = json.loads((tmp_path / 'labels.json').read_text(encoding='utf-8'))
    for box in content['annotations']:
        box['bbox'] = [40, 30, 60, 44]
    (tmp_path / 'labels.json').write_text(json.dumps(content), encoding='utf-8')
    with pytest.raises(ValueError, match=r'2 of 2 boxes in .*labels\.json.* not two corners'):
        DATASETS.build(option(tmp_path))


def test_entries_that_are_missing_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    content = json.loads((tmp_path / 'labels.json').read_text(encoding='utf-8'))
    del content['annotations'][0]['area']
    (tmp_path / 'labels.json').write_text(json.dumps(content), encoding='utf-8')
    with pytest.raises(ValueError, match=r"labels\.json.*an entry has no key 'area'.* annotations \(id, image_id"):
        DATASETS.build(option(tmp_path))
    (tmp_path / 'labels.json').write_text(json.dumps(content['annotations']), encoding='utf-8')
    with pytest.raises(ValueError, match=r'labels\.json.* not in the json format of COCO'):
        DATASETS.build(option(tmp_path))


def test_a_folder_without_the_pictures_of_the_list_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / 'images/b.jpg').touch()
    data = DATASETS.build(dict(option(tmp_path), pipeline=[dict(type='LoadImageFromFile')]))
    with pytest.raises(
        FileNotFoundError, match=r'CocoDataset: .*images/a\.jpg does not exist.* data_prefix.* holds b\.jpg'
    ):
        data[0]
