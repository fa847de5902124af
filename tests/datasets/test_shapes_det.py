"""Generated shapes as an mmdet data set."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.datasets import ShapesDetDataset
from mmdistill_dense.datasets.shapes import CLASSES, paint
from mmdistill_dense.registry import DATASETS

PIPELINE = [
    dict(type='mmdistill_dense.LoadShapesDet', with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'instances')),
]


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmdet')


def build(**options: object) -> ShapesDetDataset:
    option = dict(type='mmdistill_dense.ShapesDetDataset', num_images=12, seed=4, pipeline=PIPELINE)
    return DATASETS.build(option | options)


def metric_of(dataset: ShapesDetDataset, change: Any = None) -> dict[str, float]:
    """What ``CocoMetric`` says of the truth given as prediction, after a change of the prediction."""
    metric = CocoMetric(metric=['bbox', 'segm'])
    metric.dataset_meta = dataset.metainfo
    for item in (dataset[index] for index in range(len(dataset))):
        sample, truth = item['data_samples'], item['data_samples'].gt_instances
        sample.pred_instances = InstanceData(
            bboxes=truth.bboxes.tensor,
            labels=truth.labels,
            scores=torch.ones(len(truth)),
            masks=torch.from_numpy(truth.masks.masks.astype(bool)),
        )
        if change is not None:
            change(sample.pred_instances)
        metric.process({}, [sample.to_dict()])
    return metric.evaluate(len(dataset))


def test_item_is_the_painted_picture() -> None:
    item = build(painting=dict(size=(48, 64)))[7]
    picture = paint(4, 7, size=(48, 64))
    assert np.array_equal(item['inputs'].permute(1, 2, 0).numpy(), picture.image)
    truth = item['data_samples'].gt_instances
    assert truth.bboxes.tensor.tolist() == [list(instance.box) for instance in picture.instances]
    assert truth.labels.tolist() == [instance.label - 1 for instance in picture.instances]
    assert np.array_equal(truth.masks.masks, [instance.mask for instance in picture.instances])
    assert item['data_samples'].ori_shape == item['data_samples'].img_shape == (48, 64)


def test_pictures_are_those_of_the_segmentation_set() -> None:
    segmentation = DATASETS.build(
        dict(
            type='mmdistill_dense.ShapesSegDataset',
            num_images=3,
            seed=4,
            pipeline=[dict(type='mmdistill_dense.LoadShapes'), dict(type='mmseg.PackSegInputs')],
        )
    )
    assert all(torch.equal(a['inputs'], b['inputs']) for a, b in zip(build(num_images=3), segmentation, strict=True))


def test_metric_of_the_truth_is_perfect() -> None:
    found = metric_of(build())
    assert found['coco/bbox_mAP'] == found['coco/segm_mAP'] == 1.0


def test_metric_sees_boxes_masks_and_labels() -> None:
    def move(prediction: InstanceData) -> None:
        prediction.bboxes = prediction.bboxes + 30

    def mirror(prediction: InstanceData) -> None:
        prediction.masks = prediction.masks.flip(2)

    def rename(prediction: InstanceData) -> None:
        prediction.labels = (prediction.labels + 1) % 6

    assert metric_of(build(), move)['coco/bbox_mAP'] < 0.1
    assert metric_of(build(), mirror)['coco/segm_mAP'] < 0.2
    assert metric_of(build(), rename)['coco/bbox_mAP'] < 0.2


def test_boxes_and_masks_flip_with_the_picture() -> None:
    flipped = build(pipeline=[PIPELINE[0], dict(type='RandomFlip', prob=1.0), dict(type='PackDetInputs')])[3]
    plain = build()[3]
    assert torch.equal(flipped['inputs'], plain['inputs'].flip(2))
    truth, before = flipped['data_samples'].gt_instances, plain['data_samples'].gt_instances
    assert truth.bboxes.tensor[:, 0].tolist() == (128 - before.bboxes.tensor[:, 2]).tolist()
    assert np.array_equal(truth.masks.masks, before.masks.masks[:, :, ::-1])


def test_fewer_classes_are_numbered_anew() -> None:
    whole, part = build(), build(metainfo=dict(classes=(CLASSES[5], CLASSES[2])))
    for index in range(len(whole)):
        kept = [{4: 0, 1: 1}[label] for label in whole.get_cat_ids(index) if label in (4, 1)]
        assert part.get_cat_ids(index) == kept == part[index]['data_samples'].gt_instances.labels.tolist()


def test_a_picture_without_objects_of_a_class_has_no_boxes() -> None:
    dataset = build(painting=dict(objects=(1, 1)), metainfo=dict(classes=(CLASSES[1],)))
    counts = [dataset[index]['data_samples'].gt_instances.bboxes.tensor.shape for index in range(12)]
    assert (0, 4) in counts
    assert set(counts) <= {(0, 4), (1, 4)}


def test_masks_are_left_out_unless_asked_for() -> None:
    item = build(pipeline=[dict(type='mmdistill_dense.LoadShapesDet'), PIPELINE[1]])[0]
    assert 'masks' not in item['data_samples'].gt_instances
    assert all('mask' not in instance for instance in item['data_samples'].instances)


def test_sizes_are_known_before_painting() -> None:
    info = build(painting=dict(size=(48, 64))).get_data_info(0)
    assert (info['height'], info['width']) == (48, 64)
    assert build()[0]['data_samples'].ori_shape == (build().get_data_info(0)['height'], 128)


@pytest.mark.parametrize(('option', 'message'), [
    (dict(num_images=0), 'num_images must be at least 1, got 0'),
    (dict(metainfo=dict(classes=('ship',))), "metainfo.classes has \\['ship'\\]"),
])  # fmt: skip
def test_what_cannot_be_is_an_error(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**option)


def test_augmented_pictures_are_mirrored_and_keep_the_truth() -> None:
    cfg = Config.fromfile(find_config('mmdistill_dense::_base_/datasets/shapes_det.py'))
    dataset = DATASETS.build({**cfg.test_dataloader.dataset, 'pipeline': cfg.tta_pipeline})
    item = dataset[0]
    straight, mirrored = item['inputs']
    assert torch.equal(straight, mirrored.flip(2))
    assert [sample.flip for sample in item['data_samples']] == [False, True]
    picture = paint(dataset.seed, 0, **dataset.painting)
    boxes = [list(instance.box) for instance in picture.instances]
    assert [instance['bbox'] for instance in item['data_samples'][0].instances] == boxes
