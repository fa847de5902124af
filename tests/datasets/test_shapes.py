"""Generated shapes as an mmseg data set."""

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, default_collate, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch.utils.data import DataLoader

from mmdistill_dense.datasets import ShapesSegDataset
from mmdistill_dense.datasets.shapes import CLASSES, paint
from mmdistill_dense.registry import DATASETS

PIPELINE = [dict(type='mmdistill_dense.LoadShapes'), dict(type='PackSegInputs')]


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmseg')


def build(**options: object) -> ShapesSegDataset:
    option = dict(type='mmdistill_dense.ShapesSegDataset', num_images=12, seed=4, pipeline=PIPELINE)
    return DATASETS.build(option | options)


def test_item_is_the_painted_picture() -> None:
    item = build(painting=dict(size=(48, 64)))[7]
    picture = paint(4, 7, size=(48, 64))
    assert np.array_equal(item['inputs'].permute(1, 2, 0).numpy(), picture.image)
    sample = item['data_samples']
    assert np.array_equal(sample.gt_sem_seg.data.squeeze(0).numpy(), picture.labels)
    assert sample.ori_shape == sample.img_shape == (48, 64)


def test_same_pictures_for_any_number_of_workers() -> None:
    def images(workers: int) -> torch.Tensor:
        dataset = build()
        sampler = DefaultSampler(dataset, shuffle=False)
        loader = DataLoader(dataset, 4, sampler=sampler, num_workers=workers, collate_fn=pseudo_collate)
        return torch.cat([torch.stack(batch['inputs']) for batch in loader])

    assert torch.equal(images(0), images(2))


def test_fewer_classes_are_mapped() -> None:
    chosen = ('background', CLASSES[2])
    dataset = build(metainfo=dict(classes=chosen))
    assert dataset.metainfo['classes'] == chosen
    assert len(dataset.metainfo['palette']) == 2
    values = {int(v) for i in range(12) for v in dataset[i]['data_samples'].gt_sem_seg.data.unique()}
    assert values == {0, 1, 255}


def test_metric_of_the_truth_is_perfect() -> None:
    from mmseg.evaluation import IoUMetric

    dataset = build()
    metric = IoUMetric(iou_metrics=['mIoU'])
    metric.dataset_meta = dataset.metainfo
    for item in (dataset[index] for index in range(len(dataset))):
        sample = item['data_samples']
        sample.pred_sem_seg = PixelData(data=sample.gt_sem_seg.data)
        metric.process(default_collate([0]), [sample.to_dict()])
    assert metric.evaluate(len(dataset))['mIoU'] == 100.0


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match='num_images must be at least 1, got 0'):
        build(num_images=0)
