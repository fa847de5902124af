"""Generated shapes: the painter gives the same pictures everywhere, and mmseg and mmdet read them as data sets."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData

from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.datasets.shapes import CLASSES, SHAPES, TEXTURES, TINTS, paint
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


def test_options_of_the_painter() -> None:
    picture = paint(0, 0, size=(40, 72), objects=(2, 2), radius=(5.0, 6.0), noise=0.0)
    assert picture.image.shape == (40, 72, 3) and len(picture.instances) <= 2
    assert all(instance.mask.sum() <= 12 * 12 * 1.1 for instance in picture.instances)
    assert not paint(0, 0, objects=(0, 0)).instances
    for index in range(5):  # contrast: the difference of a texture's two colours
        picture = paint(0, index, objects=(1, 1), noise=0.0, contrast=40.0)
        (instance,) = picture.instances
        assert abs(int(np.ptp(picture.image[instance.mask], axis=0).max()) - 40) <= 1

    def changes(period: tuple[float, float]) -> int:
        pictures = [paint(0, index, objects=(1, 1), noise=0.0, period=period) for index in range(10)]
        inside = [(p.image.astype(int), p.labels > 0) for p in pictures]
        return sum(int((np.abs(np.diff(i, axis=1)).sum(2) > 20)[m[:, 1:] & m[:, :-1]].sum()) for i, m in inside)

    assert changes((14.0, 16.0)) < 0.7 * changes((7.0, 8.0)), 'coarser textures'
    assert np.array_equal(paint(0, 0, period=(20.0, 20.0)).labels, paint(0, 0).labels), 'and nothing else'


def test_tint_moves_no_shape() -> None:
    def colour(index: int, tint: float) -> tuple[int, np.ndarray]:
        picture = paint(0, index, objects=(1, 1), noise=0.0, contrast=0.0, tint=tint)
        (instance,) = picture.instances
        assert np.array_equal(picture.labels, paint(0, index, objects=(1, 1)).labels)
        return (instance.label - 1) // len(TEXTURES), picture.image[instance.mask].mean(0)

    for index in range(9):
        shape, plain = colour(index, 0.0)
        assert colour(index, 1.0)[1].tolist() == list(TINTS[shape])
        assert np.abs(colour(index, 0.5)[1] - (plain + TINTS[shape]) / 2).max() <= 1


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
    info = dataset.get_data_info(0)
    assert (info['height'], info['width']) == (48, 64), 'known before painting'
    labels = build('Seg', painting=dict(size=(48, 64)))[7]['data_samples'].gt_sem_seg.data
    assert np.array_equal(labels.squeeze(0).numpy(), picture.labels)


def test_fewer_classes_are_mapped() -> None:
    part = build('Seg', metainfo=dict(classes=('background', CLASSES[2])))
    assert part.metainfo['classes'] == ('background', CLASSES[2]) and len(part.metainfo['palette']) == 2
    assert {int(v) for i in range(12) for v in part[i]['data_samples'].gt_sem_seg.data.unique()} == {0, 1, 255}
    whole, part = build('Det'), build('Det', metainfo=dict(classes=(CLASSES[5], CLASSES[2])))
    for index in range(len(whole)):
        kept_classes = [{4: 0, 1: 1}[label] for label in whole.get_cat_ids(index) if label in (4, 1)]
        assert part.get_cat_ids(index) == kept_classes == part[index]['data_samples'].gt_instances.labels.tolist()
    rare = build('Det', painting=dict(objects=(1, 1)), metainfo=dict(classes=(CLASSES[1],)))
    counts = {rare[index]['data_samples'].gt_instances.bboxes.tensor.shape for index in range(12)}
    assert counts == {(0, 4), (1, 4)}, 'a picture without objects of a class has no boxes'


def test_the_metrics_find_the_truth_perfect() -> None:
    from mmseg.evaluation import IoUMetric

    dataset = build('Seg')
    metric = IoUMetric(iou_metrics=['mIoU'])
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        sample.pred_sem_seg = PixelData(data=sample.gt_sem_seg.data)
        metric.process(default_collate([0]), [sample.to_dict()])
    assert metric.evaluate(len(dataset))['mIoU'] == 100.0
    actual = detected()
    assert actual['coco/bbox_mAP'] == actual['coco/segm_mAP'] == 1.0


def detected(change: Callable[[InstanceData], None] = lambda _: None) -> dict[str, float]:
    """What ``CocoMetric`` says of the truth given as prediction, after a change of the prediction."""
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
        change(sample.pred_instances)
        metric.process({}, [sample.to_dict()])
    return metric.evaluate(len(dataset))


@pytest.mark.parametrize(('kind', 'change', 'score'), [
    ('bboxes', lambda boxes: boxes + 30, 'bbox'),
    ('masks', lambda masks: masks.flip(2), 'segm'),
    ('labels', lambda labels: (labels + 1) % 6, 'bbox'),
])  # fmt: skip
def test_the_metric_sees_boxes_masks_and_labels(kind: str, change: Callable, score: str) -> None:
    actual = detected(lambda prediction: setattr(prediction, kind, change(prediction[kind])))
    assert actual[f'coco/{score}_mAP'] < 0.2


def test_boxes_flip_with_the_picture() -> None:
    flip, pack = dict(type='RandomFlip', prob=1.0), dict(type='PackDetInputs')
    flipped, plain = build('Det', pipeline=[PIPELINES['Det'][0], flip, pack])[3], build('Det')[3]
    assert torch.equal(flipped['inputs'], plain['inputs'].flip(2))
    truth, before = flipped['data_samples'].gt_instances, plain['data_samples'].gt_instances
    assert truth.bboxes.tensor[:, 0].tolist() == (128 - before.bboxes.tensor[:, 2]).tolist()
    assert np.array_equal(truth.masks.masks, before.masks.masks[:, :, ::-1])
    item = build('Det', pipeline=[dict(type='mmdistill_dense.LoadShapesDet'), PIPELINES['Det'][1]])[0]
    assert 'masks' not in item['data_samples'].gt_instances
    assert all('mask' not in instance for instance in item['data_samples'].instances)


@pytest.mark.parametrize(('task', 'option', 'message'), [
    ('Seg', dict(num_images=0), 'num_images must be at least 1, got 0'),
    ('Det', dict(num_images=0), 'num_images must be at least 1, got 0'),
    ('Det', dict(metainfo=dict(classes=('ship',))), "metainfo.classes has \\['ship'\\]"),
])  # fmt: skip
def test_what_cannot_be_is_an_error(task: str, option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(task, **option)


def test_augmented_pictures_keep_the_truth() -> None:
    for task in ('seg', 'det'):
        init_default_scope(f'mm{task}')
        cfg = Config.fromfile(find_config(f'mmdistill_dense::_base_/datasets/shapes_{task}.py'))
        dataset = DATASETS.build({**cfg.test_dataloader.dataset, 'pipeline': cfg.tta_pipeline})
        straight, mirrored = dataset[0]['inputs']
        assert torch.equal(straight, mirrored.flip(2))
        samples, picture = dataset[0]['data_samples'], paint(dataset.seed, 0, **dataset.painting)
        assert [sample.flip for sample in samples] == [False, True]
        if task == 'seg':  # the truth that the merged sample keeps
            assert np.array_equal(samples[0].gt_sem_seg.data.squeeze(0).numpy(), picture.labels)
        else:
            boxes = [list(instance.box) for instance in picture.instances]
            assert [instance['bbox'] for instance in samples[0].instances] == boxes
