"""Pictures and label images that are missing, damaged, or do not fit, and loaders that give too little."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import EpochBasedTrainLoop

from mmdistill_dense.engine import ddp
from mmdistill_dense.registry import DATASETS
from tests import toys
from tests.faults.tools import whole

SIDE = (40, 60)  # smaller than the crop
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
LETTERS = dict(classes=tuple('abcdefg'), palette=[(10 * index, 0, 0) for index in range(toys.NUM_CLASSES)])


CROP = dict(type='RandomCrop', crop_size=(64, 64))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for index in range(2):
        write(tmp_path / f'images/{index}.jpg', generator.integers(0, 255, (*SIDE, 3), np.uint8))
        write(tmp_path / f'labels/{index}.png', generator.integers(0, toys.NUM_CLASSES, SIDE, np.uint8))
    return tmp_path


def write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), picture)


def folder(root: Path, *steps: dict, **options: Any) -> dict:
    """The data set of a folder, with further steps before the pictures are packed."""
    prefix = dict(img_path='images', seg_map_path='labels')
    pipeline = [*LOAD, *steps, dict(type='PackSegInputs')]
    dataset = dict(data_root=str(root), data_prefix=prefix, metainfo=LETTERS, pipeline=pipeline)
    return dict(type='mmdistill_dense.SegFolderDataset', **dataset | options)


def built(option: dict) -> Any:
    init_default_scope('mmseg')
    return DATASETS.build(option)


def train(root: Path, workers: int = 0, **options: Any) -> Any:
    config = toys.run_config(root / 'run', toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn')), iters=2)
    config.train_dataloader.dataset = folder(root, CROP, **options)
    config.train_dataloader.num_workers = workers
    return toys.train(None, config)


def test_a_damaged_or_missing_file_is_named(root: Path) -> None:
    for name in ('images/0.jpg', 'labels/0.png'):
        whole = (root / name).read_bytes()
        for share in (0, 0.3, 0.95):
            (root / name).write_bytes(whole[: int(share * len(whole))])
            with pytest.raises((OSError, AssertionError), match=name):
                built(folder(root))[0]
        (root / name).write_bytes(whole)
    (root / 'list.txt').write_text('0\n7\n')
    write(root / 'labels/7.png', np.zeros(SIDE, np.uint8))
    with pytest.raises(FileNotFoundError, match=r'images/7\.jpg'):
        built(folder(root, ann_file='list.txt'))[1]


def test_a_label_image_that_does_not_fit_its_picture_is_named(root: Path) -> None:
    """In batches of one it would be stretched over the picture, and learned. In validation it may stay as large as the
    file: the pipelines of mmseg read it behind the picture's resize, since scores are of the file's pixels."""
    steps = [LOAD[0], dict(type='Resize', scale=(30, 20), keep_ratio=True), LOAD[1], dict(type='PackSegInputs')]
    trained, tested = built(folder(root)), built(folder(root, pipeline=steps))
    for data, shape in ((trained, (20, 30)), (trained, (*SIDE, 3)), (tested, (30, 20))):
        write(root / 'labels/0.png', np.zeros(shape, np.uint8))
        with pytest.raises(ValueError, match=r'images/0\.jpg or .*labels/0\.png do not fit: after the pipeline'):
            data[0]
    for side in (SIDE, (20, 30)):  # as the file, as the resized picture
        write(root / 'labels/0.png', np.zeros(side, np.uint8))
        assert tested[0]['data_samples'].gt_sem_seg.shape == side


@pytest.mark.parametrize(('filled', 'options', 'words'), [
    (200, {}, r'labels/[01]\.png has the labels 200, but metainfo\.classes has 7 classes'),
    (None, dict(indices=0), r'train_dataloader\.dataset holds no picture: check folders, ann_file'),
    (None, dict(img_suffix='.tif'), r"no file in .* ends with img_suffix='\.tif'"),
])  # fmt: skip
def test_a_run_stops_on_labels_of_no_class(root, filled, options, words):
    for index in range(2 if filled else 0):
        write(root / f'labels/{index}.png', np.full(SIDE, filled, np.uint8))
    with pytest.raises((FileNotFoundError, ValueError), match=words):
        train(root, serialize_data=False, **options)


@pytest.mark.parametrize(('changes', 'words'), [
    (dict(iters=1, val_dataloader=dict(dataset=dict(indices=0))), r'val_dataloader\.dataset holds no picture'),
    # mmengine takes such epochs for done: trained, tested, nothing learned
    (dict(epochs=1, train_dataloader=dict(batch_size=9, drop_last=True)),
     r'train_dataloader gives no batch: with drop_last=True, its 8 pictures'),
    # the pooled branch has one value a channel in batches of one picture
    (dict(kind='deeplabv3', train_dataloader=dict(batch_size=1)), 'Expected more than 1 value per channel when train'),
])  # fmt: skip
def test_loaders_that_give_too_little_are_refused(tmp_path, changes, words):
    network = toys.seg_net(changes.pop('kind', 'fcn'))
    with pytest.raises(ValueError, match=words):
        toys.train(tmp_path, network, **changes)


def test_processes_with_other_numbers_of_batches_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddp, 'get_world_size', lambda: 4)
    monkeypatch.setattr(ddp, 'all_gather_object', lambda count: [count, 2, 1, 1])
    runner: Any = SimpleNamespace(train_loop=object.__new__(EpochBasedTrainLoop), train_dataloader=range(2))
    with pytest.raises(ValueError, match='the processes 2, 2, 1, 1 batches .*round_up=True'):
        ddp.check_equal_epochs(runner)


def test_pictures_without_a_labelled_pixel_are_no_fault(root: Path) -> None:
    """The task has nothing to say, the teacher has."""
    for index in range(2):
        write(root / f'labels/{index}.png', np.full(SIDE, 255, np.uint8))
    train(root)
    whole(root / 'run/iter_2.pth')


def test_a_picture_smaller_than_the_crop_is_padded(root: Path) -> None:
    runner = train(root)
    loader = runner.train_dataloader
    batch = runner.model.data_preprocessor(loader.collate_fn([loader.dataset[0]]), True)
    label = batch['data_samples'][0].gt_sem_seg.data[0]
    assert batch['inputs'].shape[-2:] == label.shape == (64, 64)
    learned = torch.zeros(64, 64, dtype=torch.bool)
    learned[: SIDE[0], : SIDE[1]] = True
    assert torch.equal(label != 255, learned)
