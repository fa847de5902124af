"""Batches that are made up for a network, and the length of a run."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmdistill_dense.apps.check.stages import DEFAULT_ITERATIONS, run_length
from mmdistill_dense.apps.inspect.generated_batch import BOXES, pipeline_size, training_batch
from mmdistill_dense.registry import DATASETS
from tests import toys

ROOT = Path(__file__).resolve().parents[2]


def test_a_segmenter_gets_labels_of_all_its_classes_in_its_crop() -> None:
    network = toys.build_plain(toys.seg_net())
    batch = training_batch(network, {}, 3)
    assert [x.shape for x in batch['inputs']] == [(3, toys.SIDE, toys.SIDE)] * 3
    labels = torch.stack([sample.gt_sem_seg.data for sample in batch['data_samples']])
    assert labels.unique().tolist() == list(range(toys.NUM_CLASSES))
    network.data_preprocessor.size = None
    config = Config.fromfile(ROOT / 'configs/_base_/datasets/shapes_det.py')
    detector = toys.build_plain(toys.det_net())
    for wrong, words, text in (
        (detector, {'train_dataloader': {'dataset': {'pipeline': []}}}, 'has a scale; give --size'),
        (network, {}, 'no data_preprocessor.size, the training crop; give --size'),
        (nn.Linear(1, 1), {}, 'must have a decode_head, bbox_head or roi_head, Linear has none'),
    ):
        with pytest.raises(ValueError, match=text):
            training_batch(wrong, words, 1)
    with DefaultScope.overwrite_default_scope('mmdet'):
        first = DATASETS.build(config.train_dataloader.dataset)[0]
    assert training_batch(detector, config, 1)['inputs'][0].shape == first['inputs'].shape, 'generated: their own size'


@pytest.mark.parametrize('kind', ['retinanet', 'faster_rcnn', 'cascade_mask_rcnn'])
def test_a_detector_gets_boxes_inside_the_image(kind: str) -> None:
    network = toys.build_plain(toys.det_net(kind)).train()
    batch = training_batch(network, {}, 2, (64, 96))
    for sample in batch['data_samples']:
        boxes, labels = sample.gt_instances.bboxes, sample.gt_instances.labels
        assert boxes.shape == (BOXES, 4) and labels.max() < toys.NUM_CLASSES - 1
        assert boxes.min() >= 0 and (boxes <= torch.tensor([96, 64, 96, 64])).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= torch.tensor([6, 4])).all()
    assert toys.total(toys.losses_of(network, batch)).isfinite()
    assert ('masks' in batch['data_samples'][0].gt_instances) == (kind == 'cascade_mask_rcnn')


SCALES = [[{'type': 'RandomChoiceResize', 'scales': [(20, 10), (60, 50)]}], [{'type': 'Resize', 'scale': (9, 8)}]]
BRANCHES = {'type': 'RandomChoice', 'transforms': SCALES}
CROP = {'type': 'RandomCrop', 'crop_size': (48, 32)}


@pytest.mark.parametrize(('pipeline', 'size'), [
    ([BRANCHES], (50, 60)),
    ([BRANCHES, CROP], (32, 48)),
    ([BRANCHES, {**CROP, 'crop_type': 'relative', 'crop_size': (0.5, 0.5)}], (50, 60)),
    ([{'type': 'RandomResize', 'scale': [(2048, 800), (2048, 1024)]}], (1024, 2048)),  # mmdet's Cityscapes
    ([{'type': 'Resize', 'scale': 320}], (320, 320)),
    ([{'type': 'Resize', 'scale': None}], None),
    (Config.fromfile(ROOT / 'configs/_base_/datasets/coco_detection_ms.py').train_pipeline, (800, 1333)),
])  # fmt: skip
def test_the_size_is_the_crop_or_the_largest_scale_in_any_branch(pipeline: list, size: tuple | None) -> None:
    assert pipeline_size({'dataset': {'pipeline': pipeline}}) == size


def test_a_run_is_as_long_as_its_loop_says() -> None:
    epochs = Config({'train_cfg': {'max_epochs': 3}, 'train_dataloader': {'batch_size': 2}})
    assert run_length(Config({'train_cfg': {'max_iters': 7}})) == 7
    assert run_length(epochs) == DEFAULT_ITERATIONS
    assert run_length(epochs, pictures=40, processes=4) == 3 * 5
