"""``new --head``: a foundation model with a head that is trained on the user's data first."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.check.context import ERROR, WARNING, Options
from mmdistill_dense.apps.check.run import check_config
from mmdistill_dense.apps.project.sides import read_side
from mmdistill_dense.foundation.vit import ViT, architecture
from tests.project.folders_of_data import box_folder, seg_folder

PSPNET = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
MODEL = 'dino_vits16'
QUICK = Options(val=0, cost=False)

pytestmark = pytest.mark.usefixtures('folder')


@pytest.fixture
def weights() -> str:
    """A file of the model, of random weights."""
    torch.manual_seed(0)
    network = ViT(architecture(MODEL))
    network.init_weights()
    torch.save(network.state_dict(), 'dino.pth')
    return f'{MODEL}:dino.pth'


def call(student: str, teacher: str, *words: str, code: int = 0) -> None:
    given = ['--data', 'mine', '--student', student, '--teacher', teacher, '--out', 'project', '--random-weights']
    assert main(['new', *given, '--batch', '2', *words]) == code


def read(name: str) -> Config:
    return Config.fromfile(f'project/{name}.py')


@pytest.mark.soak
@pytest.mark.parametrize(('head', 'blocks'), [
    ('linear', (-4, -3, -2, -1)),
    pytest.param('fcn', (-1,), marks=pytest.mark.soak),
    pytest.param('upernet', (2, 5, 8, 11), marks=pytest.mark.soak),
])  # fmt: skip
def test_a_segmentor_on_the_frozen_model(
    head: str, blocks: tuple[int, ...], weights: str, capsys: pytest.CaptureFixture
) -> None:
    seg_folder(Path('mine'))
    call(PSPNET, weights, '--head', head)
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
    pytest.param('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'fpn', 3, 'FPN', marks=pytest.mark.soak),
    pytest.param(
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'sfp', 5, 'ChannelMapper', marks=pytest.mark.soak
    ),
])  # fmt: skip
def test_a_detector_is_the_students_own_on_the_frozen_model(
    student: str, head: str, levels: int, kind: str, weights: str
) -> None:
    box_folder(Path('mine'))
    call(student, weights, '--head', head, '--size', '64', '96')
    teacher, own = read('pkd').model.teacher, read_side(student, '--student').model
    assert teacher.cfg == student and teacher.backbone.out_blocks == (-1, -1, -1, -1)
    pyramid, neck = teacher.neck
    assert pyramid.type == 'mmseg.Feature2Pyramid' and pyramid.embed_dim == 384
    assert (neck.type, neck.num_outs, neck.out_channels) == (kind, levels, own['neck']['out_channels'])
    report = check_config(Path('project/teacher.py'), QUICK)
    assert not [one for one in report.findings if one.level in (ERROR, WARNING)], report.findings


@pytest.mark.parametrize(('student', 'teacher', 'words', 'said'), [
    (PSPNET, PSPNET, '--head linear', f'--head linear: --teacher {PSPNET} is a network with its own head'),
    (PSPNET, '', '--head fpn', 'it does not predict what the student does. These do: linear, fcn, upernet'),
    (RETINANET, '', '--head linear', 'These do: fpn, sfp'),
    (RETINANET, '', '--head sfp', 'has stride 8: write --head fpn'),
    ('mmdet::detr/detr_r50_8xb2-150e_coco.py', '', '--head fpn', '(DETR) has no pyramid from stride 4 or 8'),
    (PSPNET, '', '--teacher-checkpoint dino.pth', 'or name the head of a trained network in --head'),
])  # fmt: skip
def test_heads_that_do_not_fit_are_refused(
    student: str, teacher: str, words: str, said: str, weights: str, capsys: pytest.CaptureFixture
) -> None:
    (box_folder if student.startswith('mmdet') else seg_folder)(Path('mine'))
    call(student, teacher or weights, *words.split(), code=2)
    assert said in capsys.readouterr().err
    assert not Path('project').exists()


@pytest.mark.soak
def test_the_head_is_trained_first_and_teaches(weights: str, capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    call(PSPNET, weights, '--head', 'linear', '--iters', '20')
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
    call(PSPNET, weights, *given)
    assert not Path('project/teacher.py').exists()
