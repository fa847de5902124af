"""Folders of pictures and label images, of the sites and one's own: what does not match is said before a picture."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import RepeatDataset
from mmengine.registry import init_default_scope

from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.datasets import SegFolderDataset
from mmdistill_dense.datasets.folders import require
from mmdistill_dense.datasets.wrapped import label_stamp
from mmdistill_dense.registry import DATASETS

CLASSES = dict(classes=('background', 'leaf'), palette=[(0, 0, 0), (0, 160, 0)])
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
SITES = {
    'CamVidDataset': ('images/train', 'annotations/train'),
    'CityscapesDataset': ('leftImg8bit/train', 'gtFine/train'),
    'PascalVOCDataset': ('JPEGImages', 'SegmentationClassAug'),
    'ADE20KDataset': ('images/training', 'annotations/training'),
    'COCOStuffDataset': ('images/train2017', 'annotations/train2017'),
}


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmseg')


def image(file: Path, pixels: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), np.asarray(pixels, np.uint8))


def of_site(name: str, root: Path, **options: Any) -> dict:
    folders = dict(zip(('img_path', 'seg_map_path'), SITES[name], strict=True))
    list_option = dict(ann_file='list.txt') if name == 'PascalVOCDataset' else {}
    dataset = dict(type=f'mmdistill_dense.{name}', data_root=str(root), data_prefix=folders, pipeline=PIPELINE)
    return dataset | list_option | options


def labels_of(option: dict, index: int = 0) -> list[int]:
    return DATASETS.build(option)[index]['data_samples'].gt_sem_seg.data.flatten().tolist()


# What is missing


def test_missing_folders_are_named_with_the_variable(tmp_path: Path) -> None:
    for name, (pictures, _) in SITES.items():
        text = rf'{name}: data_prefix.img_path = .*{tmp_path.name}/{pictures}.* does not exist.*variable MMDISTILL_DATA'
        with pytest.raises(FileNotFoundError, match=text):
            DATASETS.build(of_site(name, tmp_path))
    for folder in SITES['PascalVOCDataset']:
        (tmp_path / folder).mkdir()
    with pytest.raises(FileNotFoundError, match='PascalVOCDataset: ann_file = .*list.txt'):
        DATASETS.build(of_site('PascalVOCDataset', tmp_path))


def test_a_misspelt_folder_is_shown_beside_those_that_exist(tmp_path: Path) -> None:
    (tmp_path / 'streets/train').mkdir(parents=True)
    text = rf"The folder '{tmp_path}' exists and holds streets\. Correct data_root"
    with pytest.raises(FileNotFoundError, match=text):
        require({'data_prefix.img_path': str(tmp_path / 'street/train')}, 'X')


def test_every_way_out_of_the_message_works(tmp_path: Path) -> None:
    """For a plain loader and for one that joins two data sets."""
    cfg = Config.fromfile(find_config('mmdistill_dense::afdcd/deeplabv3_r101_to_r18_voc.py'))
    with pytest.raises(FileNotFoundError) as caught:
        DATASETS.build(cfg.train_dataloader.dataset)
    *keys, unlabelled = re.findall(r'(\S+)=DIR', str(caught.value))
    assert unlabelled == 'model.unlabelled.data_root'
    assert keys == ['test_dataloader.dataset.data_root', 'train_dataloader.dataset.datasets.0.data_root']
    cfg.merge_from_dict({key: str(tmp_path) for key in [*keys, keys[-1].replace('.0.', '.1.')]})
    for dataset in (cfg.test_dataloader.dataset, *cfg.train_dataloader.dataset.datasets):
        with pytest.raises(FileNotFoundError, match=f'= .{tmp_path}/JPEGImages'):
            DATASETS.build(dataset)


# As the sites give them


def test_ids_of_cityscapes_become_classes(tmp_path: Path) -> None:
    ids = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    option, labels = of_site('CityscapesDataset', tmp_path), tmp_path / 'gtFine/train/aachen'
    image(tmp_path / 'leftImg8bit/train/aachen/a_leftImg8bit.png', np.zeros((2, 17, 3)))
    for kind in ('labelIds', 'instanceIds'):
        image(labels / f'a_gtFine_{kind}.png', np.arange(34).reshape(2, 17))
    assert labels_of(option) == [ids.index(value) if value in ids else 255 for value in range(34)]
    chosen = labels_of(option | {'metainfo': dict(classes=('car', 'road'))})
    assert chosen == [{26: 0, 7: 1}.get(value, 255) for value in range(34)]
    made = np.resize([0, 18, 255, 1], (2, 17))
    image(labels / 'a_gtFine_labelTrainIds.png', made)
    assert labels_of(option) == made.flatten().tolist()


@pytest.mark.parametrize(('name', 'ending', 'last', 'value', 'text'), [
    ('COCOStuffDataset', '_labelTrainIds.png', 170, 181, 'mim run mmseg coco_stuff164k'),
    ('ADE20KDataset', '.png', 150, 151, 'full ADE20K has other numbers'),
    ('PascalVOCDataset', '.png', 20, 21, 'voc_aug'),
    ('CityscapesDataset', '_gtFine_labelTrainIds.png', 3, 33, 'gtFine_trainvaltest.zip'),
])  # fmt: skip
def test_labels_of_no_class_stop_the_start(
    name: str, ending: str, last: int, value: int, text: str, tmp_path: Path
) -> None:
    """Those that are ignored or reduced are none of them."""
    option, (pictures, labels) = of_site(name, tmp_path), SITES[name]
    (tmp_path / labels).mkdir(parents=True)
    (tmp_path / pictures).mkdir(parents=True)
    (tmp_path / pictures / ('X_leftImg8bit.png' if name.startswith('City') else 'X.jpg')).touch()
    (tmp_path / 'list.txt').write_text('X\n')
    with pytest.raises(FileNotFoundError, match=f'1 of 1 pictures have no label image; .*{text}'):
        DATASETS.build(option)
    image(tmp_path / labels / f'X{ending}', [[0, last, 255]])
    assert len(DATASETS.build(option)) == 1
    image(tmp_path / labels / f'X{ending}', [[0, value, 255]])
    with pytest.raises(ValueError, match=rf'{name}: .*X{ending} has the labels \d+, but .* Name the others.*{text}'):
        DATASETS.build(option)


def test_camvid_in_the_layout_of_segnet(tmp_path: Path) -> None:
    """A data set of a folder reads all pictures or those of a list, colours, and fewer classes."""
    images, labels, suffix = 'train', 'trainannot', '.png'
    label = np.arange(12).repeat(2).reshape(4, 6)
    label[0, 0] = 255
    for name in ('0001TP_000030', '0001TP_000060', 'Seq05VD_f00000'):
        image(tmp_path / images / f'{name}{suffix}', np.zeros((4, 6, 3)))
        image(tmp_path / labels / f'{name}.png', label)
    (tmp_path / 'few.txt').write_text('Seq05VD_f00000\n')
    folders = dict(img_path=images, seg_map_path=labels)
    option = of_site('CamVidDataset', tmp_path, data_prefix=folders, img_suffix=suffix)
    dataset = DATASETS.build(option)
    assert len(dataset) == 3 and {*labels_of(option)} == {*range(11), 255}  # 11 is void
    listed_data = DATASETS.build({**option, 'ann_file': 'few.txt'})
    assert [Path(item['data_samples'].img_path).stem for item in listed_data] == ['Seq05VD_f00000']
    meta = dataset.metainfo
    assert len(meta['classes']) == len(meta['palette']) == 11
    assert (meta['classes'][-1], meta['palette'][3]) == ('bicyclist', [128, 64, 128])
    assert {*labels_of({**option, 'metainfo': dict(classes=('road', 'car'))})} == {0, 1, 255}


# One's own


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index in range(3):
        image(tmp_path / f'images/{index}.jpg', np.zeros((8, 8)))
        image(tmp_path / f'labels/{index}.png', np.zeros((8, 8)))
    return tmp_path


def folder(root: Path, **options: Any) -> SegFolderDataset:
    prefix = dict(img_path='images', seg_map_path='labels')
    dataset = dict(data_root=str(root), data_prefix=prefix, metainfo=CLASSES, pipeline=[])
    return SegFolderDataset(**dataset | options)


def listed(data: SegFolderDataset, key: str) -> list[str]:
    return [Path(data.get_data_info(index)[key]).name for index in range(len(data))]


BYTES = r'label_values=.* must be different whole numbers from 0 to 255'


@pytest.mark.parametrize(('options', 'kind', 'words'), [
    (dict(img_suffix='.jpeg'), FileNotFoundError, r"img_suffix='\.jpeg'.*0\.jpg"),  # and a file that is there
    (dict(img_suffix=('.a', '.b')), FileNotFoundError, r"img_suffix='\.a' or '\.b'"),
    (dict(data_prefix=dict(img_path='pictures')), FileNotFoundError, r'data_prefix\.img_path.*MMDISTILL_DATA'),
    (dict(label_values=(0,)), ValueError, r'=\(0,\) must have one value for each of the 2 metainfo.classes, not 1'),
    (dict(label_values=(1, 1)), ValueError, BYTES),
    (dict(label_values=(0, 256)), ValueError, BYTES),
    (dict(label_values=('0', '1')), ValueError, BYTES),
    # mmseg reduces first: class 1 of the file would be ignored, and its name given to class 2.
    (dict(label_values=(1, 2), ignore_index=0), ValueError, r'ignore_index=0 is the number of a class, and the label'),
    (dict(label_values=(1, 2), reduce_zero_label=True), ValueError, r'=True changes labels before .*values=\(1, 2\)'),
])  # fmt: skip
def test_options_that_do_not_match_the_folder_are_refused(root: Path, options: dict, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        folder(root, **options)


def test_pictures_without_a_label_are_counted(root: Path) -> None:
    assert listed(folder(root), 'seg_map_path') == ['0.png', '1.png', '2.png']
    for index in range(3, 24):  # the labels of the first 20 are there
        image(root / f'images/{index}.jpg', np.zeros((8, 8)))
        image(root / f'labels/{index}.png', np.zeros((8, 8)))
    (root / 'labels/9.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 24 .*labels/9\.png'):
        folder(root)
    assert len(folder(root, data_prefix=dict(img_path='images'))) == 24, 'to be predicted'


def test_label_values_become_numbers_of_classes(root: Path) -> None:
    image(root / 'labels/0.png', np.array([[0, 255, 7]]).repeat(8, 0))
    image(root / 'images/0.jpg', np.zeros((8, 3)))
    data = folder(root, label_values=(0, 255), pipeline=PIPELINE[:2])
    assert data[0]['gt_seg_map'][0].tolist() == [0, 1, 255]
    assert cv2.imwrite(str(root / 'labels/0.png'), np.full((8, 3), 257, np.uint16))
    with pytest.raises(ValueError, match=r'0\.png has the label 257, of which 8 bits are read: 1\.'):
        data[0]


def test_pictures_of_several_endings_are_read(root: Path) -> None:
    """Of a folder and of a list; of two pictures of one name, that of the first ending."""
    (root / 'images/1.jpg').rename(root / 'images/1.PNG')
    (root / 'images/2.PNG').write_bytes((root / 'images/2.jpg').read_bytes())
    (root / 'list.txt').write_text('2\n1\n')
    for expected, options in ((['0.jpg', '1.PNG', '2.jpg'], {}), (['2.jpg', '1.PNG'], {'ann_file': 'list.txt'})):
        data = folder(root, img_suffix=('.jpg', '.PNG'), **options)
        assert listed(data, 'img_path') == expected
        assert listed(data, 'seg_map_path') == [f'{name[0]}.png' for name in expected]


@pytest.mark.parametrize('ending', ['.png', '.bmp'])  # files of BMP stay as large as they are
def test_labels_have_a_stamp_that_changes_with_them_alone(root: Path, ending: str) -> None:
    for number in range(3):
        image(root / f'labels/{number}{ending}', np.zeros((8, 8)))
    option = dict(seg_map_suffix=ending)
    before = label_stamp(folder(root, **option))
    assert label_stamp(RepeatDataset(folder(root, **option), 2)) == before
    image(root / 'images/1.jpg', np.ones((80, 80)))
    moved = root.rename(root.with_name(f'moved{ending}'))
    assert label_stamp(folder(moved, **option)) == before
    image(moved / f'labels/1{ending}', np.eye(8))
    changed = label_stamp(folder(moved, **option))
    (moved / 'list.txt').write_text('0\n2\n')
    assert len({before, changed, label_stamp(folder(moved, ann_file='list.txt', **option))}) == 3
