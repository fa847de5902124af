"""``new`` for detectors: what depends on the networks' own configs."""

from pathlib import Path

import pytest
import torch
from mmdet.utils import register_all_modules
from mmengine.registry import DATASETS, DefaultScope

from mmdistill_dense.apps.project import network_options
from tests.project.commands import GFL, RETINANET, call, read
from tests.project.folders_of_data import box_folder

MASKS = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
POINT_REND = 'mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py'

pytestmark = pytest.mark.usefixtures('folder')


def test_a_student_of_ssd_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    box_folder(Path('mine'))
    ssd = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
    call(ssd, RETINANET, '--batch', '2', '--iters', '4', '--random-weights')
    assert 'set model.bbox_head.loss_cls = None before' in capsys.readouterr().out


@pytest.mark.sample(2)
@pytest.mark.parametrize('words', [(), ('--size', '40', '64')])
@pytest.mark.parametrize(('iters', 'varied'), [(99, False), (100, True)])
def test_a_training_of_50_passes_varies_its_pictures(iters: int, varied: bool, words: tuple[str, ...]) -> None:
    """4 pictures, 2 a step. All have one size, and boxes lie inside and are seen."""
    box_folder(Path('mine'))
    call(RETINANET, RETINANET, '--batch', '2', '--iters', str(iters), '--random-weights', *words)
    config = read('control')
    assert ('RandomCrop' in str(config.train_pipeline)) is varied and 'HSV' not in str(config.test_pipeline)
    with DefaultScope.overwrite_default_scope('mmdet'):
        register_all_modules(init_default_scope=False)
        dataset = DATASETS.build(config.train_dataloader.dataset)
        items = [item for _ in range(5) for item in dataset]
    assert len({tuple(item['inputs'].shape) for item in items}) == 1
    height, width = items[0]['inputs'].shape[1:]
    for item in items:
        boxes = item['data_samples'].gt_instances.bboxes.tensor
        assert (boxes >= 0).all() and (boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()


@pytest.mark.parametrize(('size', 'warned'), [((), False), ((22, 28), False), ((20, 26), True)])
def test_boxes_below_the_step_of_a_map_are_warned_of(
    size: tuple[int, ...], warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """All are of 20 x 18 pixels in pictures of 48 x 64."""
    box_folder(Path('mine'))
    call(RETINANET, RETINANET, '--random-weights', *(('--size', *map(str, size)) if size else ()))
    assert ('half of the boxes are below 8 x 8 pixels' in capsys.readouterr().out) is warned


def test_a_student_with_masks_is_compared_by_boxes() -> None:
    box_folder(Path('mine'), masks=True)
    call(MASKS, GFL)
    assert 'metric:' not in Path('project/suite.yaml').read_text()
    student, teacher = (read(name).val_evaluator.metric for name in ('control', 'teacher'))
    assert (student, teacher) == (['bbox', 'segm'], 'bbox')


def test_networks_of_masks(capsys: pytest.CaptureFixture) -> None:
    """They are compared by their masks; pictures without boxes do not train."""
    box_folder(Path('mine'), masks=True)
    call(POINT_REND, MASKS)
    printed = capsys.readouterr().out
    assert 'pictures without boxes are left out of training' in printed
    assert 'the mask head learns from its labels alone' in printed
    assert read('control').train_dataloader.dataset.filter_cfg.filter_empty_gt
    assert 'metric: coco/segm_mAP' in Path('project/suite.yaml').read_text()


@pytest.mark.parametrize(('teacher', 'argv', 'taught'), [
    (MASKS, '', dict(kd=['cls_score', 'mask_preds'])),
    (POINT_REND, '--method kd', dict(kd=['cls_score'])),
])  # fmt: skip
def test_two_mask_heads_of_a_kind_are_compared(
    teacher: str, argv: str, taught: dict[str, list], capsys: pytest.CaptureFixture
) -> None:
    box_folder(Path('mine'), masks=True)
    call(MASKS, teacher, *argv.split())
    ((method, outputs),) = taught.items()
    assert [distiller.get('output') for distiller in read(method).model.distillers.values()] == outputs
    assert ('learns from its labels alone' in capsys.readouterr().out) == ('mask_preds' not in outputs)
    assert f'  {method}: {{config: {method}.py}}\n' in Path('project/suite.yaml').read_text()


@pytest.mark.parametrize('words', [(), ('--train-teacher',)])
def test_published_weights_of_the_classes_are_not_trained(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Those of other classes: test_sides.py."""
    monkeypatch.setattr(network_options, 'reachable', lambda host: True)
    box_folder(Path('mine'), categories=('person', 'traffic light'))
    call(RETINANET, RETINANET.replace('r18', 'r101'), '--iters', '4', *words)
    printed = capsys.readouterr().out
    assert ('published weights know all your classes, so it is not trained' in printed) is not bool(words)
    assert Path('project/teacher.py').exists() is bool(words)
    teacher = read('control').model.teacher
    if words:
        assert teacher.bbox_head.num_classes == 2 and 'classes' not in teacher
    else:
        assert teacher.checkpoint == 'auto' and teacher.classes == 'auto' and 'bbox_head' not in teacher
        assert 'test_teacher: true' in Path('project/suite.yaml').read_text()  # its score comes first
