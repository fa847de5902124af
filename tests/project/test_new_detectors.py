"""``new`` for detectors and with ``--head``: what depends on the networks' own configs; heads on a foundation model."""

from pathlib import Path

import pytest
import torch

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.check.context import Options
from mmdistill_dense.apps.check.run import check_config
from mmdistill_dense.apps.project import sides, zoo_schedule
from mmdistill_dense.apps.project.sides import read_side
from mmdistill_dense.apps.recipes.compose import options_for
from mmdistill_dense.apps.suite.definition import load
from mmdistill_dense.foundation.vit import ViT, architecture
from mmdistill_dense.guards.findings import ERROR, WARNING
from tests.project.folders_of_data import box_folder, seg_folder
from tests.project.test_new import RETINANET, call, read

GFL = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
FCOS = 'mmdet::fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.py'
MASKS = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
POINT_REND = 'mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py'
FASTER = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

pytestmark = pytest.mark.usefixtures('folder')
LONG = pytest.mark.soak  # cases of a kind that another one shows


def test_a_student_of_ssd_is_taken_and_what_mmdet_lacks_for_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    box_folder(Path('mine'))
    ssd = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
    call(ssd, RETINANET, '--batch', '2', '--iters', '4', '--random-weights')
    assert 'set model.bbox_head.loss_cls = None before' in capsys.readouterr().out


def steps(name: str) -> int:
    return read(name).train_cfg.max_iters


@pytest.mark.parametrize(('student', 'file'), [(FCOS, 'frs_fcos.py'), (RETINANET, 'frs_retinanet.py')])
def test_a_teacher_is_trained_as_long_as_a_student_that_trains_much_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, student: str, file: str
) -> None:
    """And the methods of a project are those that are made for the student's head."""
    monkeypatch.setattr(zoo_schedule, 'MIN_STEPS', 10)
    box_folder(Path('mine'))
    call(student, GFL, '--batch', '2')
    longer = student == FCOS
    assert steps('control') == steps('teacher') and (steps('control') > 300) is longer
    told = 'trained as long as the student, not for the 24 steps of its config' in capsys.readouterr().out
    assert told is longer
    config = read('teacher')
    assert config.param_scheduler[-1].end == steps('teacher')
    assert config.model.teacher.checkpoint.endswith(f'iter_{steps("teacher")}.pth')
    definition = load('project/suite.yaml')
    found = options_for('frs', definition.control)
    assert found is not None and found.name == file
    assert [*definition.methods] == ['control_x2', 'control_x4', 'fgd'] and [*definition.taught] == ['fgd']


def test_a_student_with_masks_is_compared_by_boxes_with_a_teacher_that_has_none() -> None:
    box_folder(Path('mine'), masks=True)
    call(MASKS, GFL)
    assert 'metric:' not in Path('project/suite.yaml').read_text()
    student, teacher = (read(name).val_evaluator.metric for name in ('control', 'teacher'))
    assert (student, teacher) == (['bbox', 'segm'], 'bbox')


def test_networks_of_masks_and_one_that_stops_without_boxes(capsys: pytest.CaptureFixture) -> None:
    """They are compared by their masks; pictures without boxes do not train."""
    box_folder(Path('mine'), masks=True)
    call(POINT_REND, MASKS)
    said = capsys.readouterr().out
    assert 'pictures without boxes are left out of training' in said
    assert 'the mask head learns from its labels alone' in said
    assert read('control').train_dataloader.dataset.filter_cfg.filter_empty_gt
    assert 'metric: coco/segm_mAP' in Path('project/suite.yaml').read_text()


@pytest.mark.parametrize(('teacher', 'given', 'taught'), [
    (MASKS, '', dict(kd=['cls_score', 'mask_preds'])),
    (POINT_REND, '--method kd', dict(kd=['cls_score'])),
    pytest.param(POINT_REND, '', dict(fgd=[None]), marks=LONG),
    pytest.param(FASTER, '', dict(fgd=[None]), marks=LONG),
    pytest.param(FASTER, '--method kd', dict(kd=['cls_score']), marks=LONG),
])  # fmt: skip
def test_two_mask_heads_of_one_kind_are_compared_unless_a_method_is_named(
    teacher: str, given: str, taught: dict[str, list], capsys: pytest.CaptureFixture
) -> None:
    box_folder(Path('mine'), masks=True)
    call(MASKS, teacher, *given.split())
    ((method, outputs),) = taught.items()
    assert [one.get('output') for one in read(method).model.distillers.values()] == outputs
    assert ('learns from its labels alone' in capsys.readouterr().out) == ('mask_preds' not in outputs)
    assert f'  {method}: {{config: {method}.py, rate: control}}\n' in Path('project/suite.yaml').read_text()


@pytest.mark.parametrize('words', [(), ('--train-teacher',)])
def test_published_weights_that_know_the_classes_are_not_trained_again(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Those of other classes: test_sides.py."""
    monkeypatch.setattr(sides, 'reachable', lambda host: True)
    box_folder(Path('mine'), categories=('person', 'traffic light'))
    call(RETINANET, RETINANET.replace('r18', 'r101'), '--iters', '4', *words)
    said = capsys.readouterr().out
    assert ('published weights know all your classes, so it is not trained' in said) is not bool(words)
    assert Path('project/teacher.py').exists() is bool(words)
    teacher = read('control').model.teacher
    if words:
        assert teacher.bbox_head.num_classes == 2 and 'classes' not in teacher
    else:
        assert teacher.checkpoint == 'auto' and teacher.classes == 'auto' and 'bbox_head' not in teacher
        assert 'test_teacher: true' in Path('project/suite.yaml').read_text()  # its score comes first


# A head on a foundation model, which is trained on the user's data first

PSPNET = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
MODEL = 'dino_vits16'
QUICK = Options(val=0, cost=False)
SHORT = ('--random-weights', '--batch', '2')


@pytest.fixture
def weights() -> str:
    """A file of the model, of random weights."""
    torch.manual_seed(0)
    network = ViT(architecture(MODEL))
    network.init_weights()
    torch.save(network.state_dict(), 'dino.pth')
    return f'{MODEL}:dino.pth'


@pytest.mark.soak
@pytest.mark.parametrize(('head', 'blocks'), [
    ('linear', (-4, -3, -2, -1)),
    ('fcn', (-1,)),
    ('upernet', (2, 5, 8, 11)),
])  # fmt: skip
def test_a_segmentor_on_the_frozen_model(
    head: str, blocks: tuple[int, ...], weights: str, capsys: pytest.CaptureFixture
) -> None:
    seg_folder(Path('mine'))
    call(PSPNET, weights, '--head', head, *SHORT)
    told = capsys.readouterr().out
    assert f'{MODEL} stays as in {Path("dino.pth").resolve()}; its head {head} is trained' in told
    assert 'method   kd: LogitKD' in told and 'method   featurematch: FeatureMatch' in told
    teacher = read('kd').model.teacher
    assert teacher.backbone.checkpoint == str(Path('dino.pth').resolve()) and teacher.backbone.frozen
    assert tuple(teacher.backbone.out_blocks) == blocks and teacher.decode_head.num_classes == 3
    trained = read('teacher')
    rate, decay = (1e-3, 0.01) if head == 'linear' else (2e-4, 0.05)
    assert trained.optim_wrapper.optimizer.weight_decay == decay
    assert trained.optim_wrapper.optimizer.lr == pytest.approx(rate * (2 / 16) ** 0.5, rel=1e-2)
    assert trained.train_cfg.max_iters == 2000  # 32 passes would be 64 steps
    assert trained.param_scheduler[0].end == 200
    assert read('featurematch').model.distillers.featurematch.teacher_tap == 'backbone[-1]'
    for name in ('teacher', 'kd'):
        report = check_config(Path(f'project/{name}.py'), QUICK)
        stops = [one.message for one in report.findings if one.level == ERROR]
        if name == 'teacher':
            assert not stops and not [one for one in report.findings if one.level == WARNING]
            assert [one.part for one in report.subject.student.starts] == ['backbone']
        else:
            assert len(stops) <= 1 and all('iter_2000.pth' in one for one in stops)  # which is trained first


@pytest.mark.parametrize(('student', 'head', 'levels', 'kind'), [
    (RETINANET, 'fpn', 5, 'FPN'),
    pytest.param('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'fpn', 3, 'FPN', marks=LONG),
    pytest.param(FASTER, 'sfp', 5, 'ChannelMapper', marks=LONG),
])  # fmt: skip
def test_a_detector_is_the_students_own_on_the_frozen_model(
    student: str, head: str, levels: int, kind: str, weights: str
) -> None:
    box_folder(Path('mine'))
    call(student, weights, '--head', head, '--size', '64', '96', *SHORT)
    teacher, own = read('pkd').model.teacher, read_side(student, '--student').model
    assert teacher.cfg == student and teacher.backbone.out_blocks == (-1, -1, -1, -1)
    pyramid, neck = teacher.neck
    assert pyramid.type == 'mmseg.Feature2Pyramid' and pyramid.embed_dim == 384
    assert (neck.type, neck.num_outs, neck.out_channels) == (kind, levels, own['neck']['out_channels'])
    report = check_config(Path('project/teacher.py'), QUICK)
    assert not [one for one in report.findings if one.level in (ERROR, WARNING)], report.findings


@pytest.mark.soak
def test_the_head_is_trained_first_and_teaches(weights: str, capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    call(PSPNET, weights, '--head', 'linear', '--iters', '20', *SHORT)
    capsys.readouterr()
    assert main(['run', 'project']) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ('teacher: ', 'the student alone', 'kd (', 'featurematch ('))
    assert 'nothing in the' not in told and 'AdamW at' not in told
    assert Path('project/student_featurematch.pth').is_file()
    state = torch.load('project/work/teacher/iter_20.pth', weights_only=False)['state_dict']
    start = torch.load('dino.pth')
    assert all(torch.equal(state[f'backbone.{name}'], value) for name, value in start.items())
    used = ('--head', 'linear', '--iters', '2', '--teacher-checkpoint', 'project/work/teacher/iter_20.pth')
    Path('project').rename('first')
    given = ['first/work/teacher/iter_20.pth' if word.startswith('project/') else word for word in used]
    call(PSPNET, weights, *given, *SHORT)
    assert not Path('project/teacher.py').exists()
