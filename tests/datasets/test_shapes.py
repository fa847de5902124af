"""Generated shapes: the painter gives the same pictures everywhere, and both tasks read them as data sets."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmdistill_dense.datasets.shapes import CLASSES, SHAPES, TEXTURES, paint
from mmdistill_dense.registry import DATASETS

META = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'instances')
PIPELINES = {
    'Seg': [dict(type='mmdistill_dense.LoadShapes'), dict(type='mmseg.PackSegInputs')],
    'Det': [
        dict(type='mmdistill_dense.LoadShapesDet', with_mask=True),
        dict(type='mmdet.PackDetInputs', meta_keys=META),
    ],
}


def build(task: str, **options: object) -> Any:
    init_default_scope(f'mm{task.lower()}')
    option = dict(type=f'mmdistill_dense.Shapes{task}Dataset', num_images=12, seed=4, pipeline=PIPELINES[task])
    return DATASETS.build(option | options)


# The painter


def test_a_picture_depends_on_its_seed() -> None:
    np.random.seed(0)
    first = paint(0, 5)
    np.random.seed(1)
    paint(0, 4)
    again = paint(0, 5)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, paint(0, 6).image) and not np.array_equal(first.image, paint(1, 5).image)


def test_instances_cover_their_labels_without_overlap() -> None:
    filled, seen_classes = [], set()
    for picture in (paint(3, index) for index in range(60)):
        assert picture.image.shape == (96, 128, 3) and picture.labels.shape == (96, 128)
        assert picture.image.dtype == picture.labels.dtype == np.uint8
        covered = np.zeros(picture.labels.shape, int)
        for instance in picture.instances:
            covered += instance.mask
            assert (picture.labels[instance.mask] == instance.label).all()
            rows, columns = np.nonzero(instance.mask)
            assert instance.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            filled.append(instance.mask.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1))
        assert np.array_equal(covered, picture.labels > 0)
        seen_classes |= {*picture.labels.flat}
    assert seen_classes == set(range(len(CLASSES))) and len(CLASSES) == 1 + len(SHAPES) * len(TEXTURES)
    assert min(filled) < 0.3, 'objects hide each other'


# Data sets


def test_items_are_the_painted_picture_in_both_tasks() -> None:
    picture = paint(4, 7, size=(48, 64))
    for task in ('Seg', 'Det'):
        dataset = build(task, painting=dict(size=(48, 64)))
        item = dataset[7]
        assert np.array_equal(item['inputs'].permute(1, 2, 0).numpy(), picture.image)
        sample = item['data_samples']
        assert sample.ori_shape == sample.img_shape == (48, 64)
    truth = sample.gt_instances
    assert truth.bboxes.tensor.tolist() == [list(instance.box) for instance in picture.instances]
    assert truth.labels.tolist() == [instance.label - 1 for instance in picture.instances]
    assert np.array_equal(truth.masks.masks, [instance.mask for instance in picture.instances])
    names = [*dict.fromkeys(CLASSES[instance.label] for instance in picture.instances)][::-1]
    few = build('Det', painting=dict(size=(48, 64)), metainfo=dict(classes=names))[7]['data_samples'].gt_instances
    assert few.labels.tolist() == [names.index(CLASSES[instance.label]) for instance in picture.instances]
    info = dataset.get_data_info(0)
    assert (info['height'], info['width']) == (48, 64), 'known before painting'
    labels = build('Seg', painting=dict(size=(48, 64)))[7]['data_samples'].gt_sem_seg.data
    assert np.array_equal(labels.squeeze(0).numpy(), picture.labels)


def test_coco_scores_the_truth_as_perfect() -> None:
    """Without a label file, by what the pipeline packs."""
    dataset, metric = build('Det'), CocoMetric(metric=['bbox', 'segm'])
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        truth = sample.gt_instances
        sample.pred_instances = InstanceData(
            bboxes=truth.bboxes.tensor,
            labels=truth.labels,
            scores=torch.ones(len(truth)),
            masks=torch.from_numpy(truth.masks.masks.astype(bool)),
        )
        metric.process({}, [sample.to_dict()])
    scores = metric.evaluate(len(dataset))
    assert scores['coco/bbox_mAP'] == scores['coco/segm_mAP'] == 1.0


@pytest.mark.parametrize(('task', 'option', 'message'), [
    ('Seg', dict(num_images=0), 'num_images must be at least 1, got 0'),
    ('Det', dict(num_images=0), 'num_images must be at least 1, got 0'),
    ('Det', dict(metainfo=dict(classes=('ship',))), "metainfo.classes has \\['ship'\\]"),
])  # fmt: skip
def test_what_cannot_be_is_an_error(task: str, option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(task, **option)
