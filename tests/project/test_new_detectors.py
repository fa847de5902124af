"""``new`` for detectors: sizes, lengths, scores and methods that depend on the networks' own configs."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.project import sides, zoo_schedule
from mmdistill_dense.apps.project.sides import read_side
from mmdistill_dense.apps.project.zoo_schedule import decide_loading
from mmdistill_dense.apps.recipes.compose import options_for
from mmdistill_dense.apps.suite.definition import load
from tests.project.folders_of_data import box_folder
from tests.project.mended import perfect_scores, written

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
GFL = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
FCOS = 'mmdet::fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.py'
MASKS = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
POINT_REND = 'mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py'
FASTER = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'


pytestmark = pytest.mark.usefixtures('folder')
LONG = pytest.mark.soak  # cases of a kind that another one shows


def call(student: str, teacher: str, *words: str) -> int:
    return main(['new', '--data', 'mine', '--student', student, '--teacher', teacher, '--out', 'project', *words])


@pytest.mark.parametrize(('name', 'size', 'keep'), [
    ('rtmdet/rtmdet_tiny_8xb32-300e_coco', (640, 640), True),
    ('rtmdet/rtmdet_x_p6_4xb8-300e_coco', (1280, 1280), True),
    ('yolox/yolox_s_8xb8-300e_coco', (640, 640), True),
    ('yolox/yolox_tiny_8xb8-300e_coco', (416, 416), True),
    ('yolo/yolov3_d53_8xb8-ms-416-273e_coco', (416, 416), True),
    ('ssd/ssd300_coco', (300, 300), False),
    (FCOS[7:-3], (800, 1333), True),
    ('gfl/gfl_r50_fpn_ms-2x_coco', (800, 1333), True),
    ('detr/detr_r18_8xb2-500e_coco', (800, 1333), True),
])  # fmt: skip
def test_pictures_are_as_large_as_those_the_config_tests_on(name: str, size: tuple[int, int], keep: bool) -> None:
    """Its training may resize to twice as much and then crop, or to several sizes, the smallest first."""
    side = read_side(f'mmdet::{name}.py', '--student')
    loading = decide_loading(side, (1080, 1920), 100, None, None)
    assert loading.size == size and loading.keep_ratio is keep


def test_a_student_of_ssd_is_taken_and_what_mmdet_lacks_for_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    box_folder(Path('mine'))
    ssd = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
    assert call(ssd, RETINANET, '--batch', '2', '--iters', '4', '--random-weights') == 0
    assert 'set model.bbox_head.loss_cls = None before' in capsys.readouterr().out


def steps(name: str) -> int:
    return Config.fromfile(f'project/{name}.py').train_cfg.max_iters


@pytest.mark.parametrize(('student', 'file'), [(FCOS, 'frs_fcos.py'), (RETINANET, 'frs_retinanet.py')])
def test_a_race_tries_the_methods_that_are_made_for_the_heads(student: str, file: str) -> None:
    box_folder(Path('mine'))
    assert call(student, student, '--batch', '2', '--iters', '4') == 0
    definition = load('project/suite.yaml')
    found = options_for('frs', definition.control)
    assert found is not None and found.name == file
    assert [*definition.methods] == ['control_x2', 'control_x4', 'fgd'] and [*definition.taught] == ['fgd']


@pytest.mark.parametrize('student', [FCOS, RETINANET])
def test_a_teacher_is_trained_as_long_as_a_student_that_trains_much_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, student: str
) -> None:
    monkeypatch.setattr(zoo_schedule, 'MIN_STEPS', 10)
    box_folder(Path('mine'))
    assert call(student, GFL, '--batch', '2') == 0
    longer = student == FCOS
    assert steps('control') == steps('teacher') and (steps('control') > 300) is longer
    told = 'trained as long as the student, not for the 24 steps of its config' in capsys.readouterr().out
    assert told is longer
    config = Config.fromfile('project/teacher.py')
    assert config.param_scheduler[-1].end == steps('teacher')
    assert config.model.teacher.checkpoint.endswith(f'iter_{steps("teacher")}.pth')


def test_a_student_with_masks_is_compared_by_boxes_with_a_teacher_that_has_none() -> None:
    box_folder(Path('mine'), masks=True)
    assert call(MASKS, GFL) == 0
    assert 'metric:' not in Path('project/suite.yaml').read_text()
    student, teacher = (Config.fromfile(f'project/{name}.py').val_evaluator.metric for name in ('control', 'teacher'))
    assert (student, teacher) == (['bbox', 'segm'], 'bbox')


def test_scores_by_class_are_there_from_the_start(tmp_path: Path) -> None:
    init_default_scope('mmdet')
    _, config = written(box_folder(tmp_path / 'data'), tmp_path / 'out')
    scores = perfect_scores(config)
    assert scores['coco/red_precision'] == scores['coco/white_precision'] == 1


def test_networks_of_masks_and_one_that_stops_without_boxes(capsys: pytest.CaptureFixture) -> None:
    """They are compared by their masks; pictures without boxes do not train."""
    box_folder(Path('mine'), masks=True)
    assert call(POINT_REND, MASKS) == 0
    said = capsys.readouterr().out
    assert 'pictures without boxes are left out of training' in said
    assert 'the mask head learns from its labels alone' in said
    assert Config.fromfile('project/control.py').train_dataloader.dataset.filter_cfg.filter_empty_gt
    assert 'metric: coco/segm_mAP' in Path('project/suite.yaml').read_text()


@pytest.mark.parametrize(
    ('teacher', 'method'),
    [(MASKS, 'kd'), pytest.param(POINT_REND, 'fgd', marks=LONG), pytest.param(FASTER, 'fgd', marks=LONG)],
)
def test_two_mask_heads_of_one_kind_are_compared_unless_a_method_is_named(teacher: str, method: str) -> None:
    box_folder(Path('mine'), masks=True)
    assert call(MASKS, teacher) == 0
    assert Path(f'project/{method}.py').is_file()
    assert f'  {method}: {{config: {method}.py, rate: control}}\n' in Path('project/suite.yaml').read_text()


@pytest.mark.parametrize(('teacher', 'taught'), [
    (MASKS, ['cls_score', 'mask_preds']),
    pytest.param(FASTER, ['cls_score'], marks=LONG),
    (POINT_REND, ['cls_score']),
])  # fmt: skip
def test_kd_teaches_a_mask_head_by_one(teacher: str, taught: list[str], capsys: pytest.CaptureFixture) -> None:
    box_folder(Path('mine'), masks=True)
    assert call(MASKS, teacher, '--method', 'kd') == 0
    found = Config.fromfile('project/kd.py').model.distillers
    assert [one.output for one in found.values()] == taught
    assert ('learns from its labels alone' in capsys.readouterr().out) == (taught == ['cls_score'])


@pytest.mark.parametrize('words', [(), ('--train-teacher',)])
def test_published_weights_that_know_the_classes_are_not_trained_again(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Those of other classes: test_new.py."""
    monkeypatch.setattr(sides, 'reachable', lambda host: True)
    box_folder(Path('mine'), categories=('person', 'traffic light'))
    assert call(RETINANET, RETINANET.replace('r18', 'r101'), '--iters', '4', *words) == 0
    said = capsys.readouterr().out
    assert ('published weights know all your classes, so it is not trained' in said) is not bool(words)
    assert Path('project/teacher.py').exists() is bool(words)
    teacher = Config.fromfile('project/control.py').model.teacher
    if words:
        assert teacher.bbox_head.num_classes == 2 and 'classes' not in teacher
    else:
        assert teacher.checkpoint == 'auto' and teacher.classes == 'auto' and 'bbox_head' not in teacher
        assert 'test_teacher: true' in Path('project/suite.yaml').read_text()  # its score comes first
