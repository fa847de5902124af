"""What ``mmdistill check`` finds in runs that are right, and in runs that are wrong in one thing."""

import io
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import InstanceData
from PIL import Image
from rich.console import Console

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.check import CheckReport, Options, check_config, stages
from mmdistill_dense.apps.check.context import CheckContext
from mmdistill_dense.apps.check.run import STEPPING, _advice, show
from mmdistill_dense.apps.check.stages import predict
from tests import toys
from tests.project.folders_of_data import box_folder
from tests.toys import seg_config

FAST = Options(val=0)
RANDOM = Options(weights=False)
CONFIGS = Path(__file__).parents[2] / 'configs'


def found(report: CheckReport) -> dict[str, str]:
    """Name and level of the findings."""
    return {finding.check: finding.level for finding in report.findings}


def said(report: CheckReport) -> str:
    return ' '.join(finding.message for finding in report.findings)


def printed(report: CheckReport) -> str:
    text = io.StringIO()
    show(report, Console(file=text, width=200))
    return text.getvalue()


@pytest.fixture(scope='module')
def seg(tmp_path_factory: pytest.TempPathFactory) -> CheckReport:
    """A whole check of a run with an aligned feature and a logit distiller."""
    distillers = dict(kd=dict(type='LogitKD'), fitnet=dict(type='FitNet', student_tap='backbone[3]', align='conv'))
    folder = tmp_path_factory.mktemp('run') / 'work_dir'
    report = check_config(seg_config(folder, distillers), Options(val=2))
    assert not folder.exists(), 'a check writes nothing'
    return report


def test_a_right_run_is_described(seg: CheckReport) -> None:
    assert (seg.verdict == 'error', seg.stopped, seg.exit_code()) == (False, '', 0), seg.findings
    subject = seg.context
    logits, maps = subject.taps
    assert logits.student_tap == 'decode_head.conv_seg'
    assert logits.student_shape == logits.teacher_shape == [2, toys.NUM_CLASSES, 8, 8]
    assert (maps.student_shape, maps.teacher_shape) == ([2, 64, 8, 8], [2, 128, 8, 8])
    assert subject.student.distillers == 64 * 128 + 128
    terms = {term.name: term for term in subject.terms}
    assert set(terms) == {'task', 'distill.kd.loss_kd', 'distill.fitnet.loss_fitnet'}
    assert sum(term.share for term in terms.values()) == pytest.approx(1)
    assert all(term.pulls['backbone'].norm > 0 for term in terms.values())
    (teacher,) = subject.teachers
    assert teacher.receipt.matched == teacher.receipt.total > 0
    assert 0 <= teacher.metric['mIoU'] <= 100 and teacher.metric_pictures == 2
    content = json.loads(json.dumps(seg.as_dict()))
    assert len(content['taps']) == 2 and content['verdict'] == seg.verdict
    text = printed(seg)
    for expected in ('decode_head.conv_seg', 'distill.fitnet.loss_fitnet', 'mIoU', 'SHA-256', 'cosine with task', 'OK'):
        assert expected in text, expected


def test_a_detector_on_generated_pictures_of_a_given_size(tmp_path: Path) -> None:
    student, teacher = toys.det_net(), toys.det_net(width=16, channels=16, allow_random=True)
    model = toys.model_config(student, teacher, dict(fgd=dict(type='FGD')))
    report = check_config(toys.det_run_config(tmp_path, model), Options(False, batch=2, size=(96, 128)))
    assert report.verdict == 'ok', report.findings
    assert report.context.batch_shape == [[2, 3, 96, 128]]
    assert next(row.student_shape[2:] for row in report.context.taps) == [12, 16]
    assert 'mean nothing' in printed(report)


def test_a_pretraining_has_two_views(tmp_path: Path) -> None:
    config = Config.fromfile(CONFIGS / 'pcd' / 'toy_pretrain.py')
    report = check_config(config, Options(weights=False, batch=4))
    assert report.verdict == 'ok', report.findings
    assert report.context.batch_shape == [[4, 3, 64, 64]] * 2
    assert [term.name for term in report.context.terms] == ['distill.pcd.loss_pcd']
    assert report.context.terms[0].value > 0, 'the queue holds the batch'


def test_several_teachers_or_none_are_described(tmp_path: Path) -> None:
    teachers = dict(a=toys.seg_net(width=16, allow_random=True), b=toys.seg_net('pspnet', allow_random=True))
    distillers = dict(one=dict(type='LogitKD', teacher='a'), two=dict(type='LogitKD', teacher='b'))
    report = check_config(toys.run_config(tmp_path, toys.model_config(None, teachers, distillers)), RANDOM)
    assert [teacher.key for teacher in report.context.teachers] == ['model.teacher.a', 'model.teacher.b']
    assert {row.distiller for row in report.context.taps} == {'one', 'two'}
    report = check_config(toys.run_config(tmp_path, toys.seg_net()), FAST)
    assert [term.name for term in report.context.terms] == ['task']
    assert not report.context.taps and report.verdict != 'error' and ' initialised' in printed(report)
    two = dict(kd=dict(type='LogitKD'), off=dict(type='CWD', schedule=dict(stop_at=0)))
    assert check_config(seg_config(tmp_path, two), RANDOM).context.iteration == 2


# Wrong in one thing


def heads(count: int) -> dict[str, Any]:
    return dict(decode_head=dict(num_classes=count), auxiliary_head=dict(num_classes=count))


FIT = dict(kd=dict(type='FitNet', student_tap='backbone[3]'))
OTHER_TEACHER = toys.seg_net(width=16, allow_random=True, **heads(5))
NO_HOOK = dict(default_hooks=dict(distill=dict(type='IterTimerHook')))


@pytest.mark.parametrize(('model', 'changes', 'check', 'stopped', 'words'), [
    ((None, OTHER_TEACHER, FIT), {}, 'loading the weights', 'loading the weights', f'5 classes.*{toys.NUM_CLASSES}'),
    ((toys.seg_net(**heads(3)),), {}, 'student_classes', 'reading the data set', 'num_classes'),
    ((None, None, dict(kd=dict(FIT['kd'], student_tap='bakbone[3]'))), {}, 'building the networks',
     'building the networks', 'Close names: backbone.*mmdistill taps'),
    ((), NO_HOOK, 'hook', 'reading the config', 'no DistillHook'),
])  # fmt: skip
def test_what_training_would_refuse(
    tmp_path: Path, model: tuple, changes: dict, check: str, stopped: str, words: str
) -> None:
    report = check_config(toys.run_config(tmp_path, toys.model_config(*model), **changes), RANDOM)
    assert found(report)[check] == 'error' and report.stopped == stopped and report.exit_code() == 2
    assert re.search(words, printed(report), re.DOTALL)


def test_missing_data_are_replaced_by_generated_ones(tmp_path: Path) -> None:
    dataset = dict(_delete_=True, type='mmdistill_dense.CamVidDataset', data_root=str(tmp_path / 'none'), pipeline=[])
    config = seg_config(tmp_path)
    for loader in ('train_dataloader', 'val_dataloader'):
        config[loader].dataset = {**dataset, 'data_prefix': dict(img_path='a', seg_map_path='b')}
        config[loader].dataset.pop('_delete_')
    heads = {f'model.student.{head}.num_classes': 11 for head in ('decode_head', 'auxiliary_head')}
    heads |= {name.replace('student', 'teacher'): 11 for name in heads}
    config.merge_from_dict(heads)
    report = check_config(config, RANDOM)
    assert found(report) == {'data': 'error'} and 'MMDISTILL_DATA' in said(report), report.findings
    assert len(report.findings) == 1, 'the same is not said of validation'
    assert report.context.taps[0].student_shape[:2] == [2, 11], 'the rest was checked'
    assert report.exit_code() == 2 and 'ERROR in the data: training would not work.' in printed(report)


@pytest.mark.parametrize('wrong', ['folder', 'label'])
def test_validation_pictures_that_cannot_be_read(tmp_path: Path, wrong: str) -> None:
    """Training would stop at its first validation, after hours."""
    folder = tmp_path / 'none'
    if wrong == 'label':
        folder = tmp_path / 'set'
        for name, shape in (('a', (8, 8, 3)), ('b', (4, 8))):
            (folder / name).mkdir(parents=True)
            Image.fromarray(np.zeros(shape, np.uint8)).save(folder / name / ('1.png' if name == 'b' else '1.jpg'))
    config = seg_config(tmp_path)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    prefix = dict(img_path='a', seg_map_path='b')
    data = dict(type='mmdistill_dense.CamVidDataset', data_root=str(folder), data_prefix=prefix, pipeline=pipeline)
    config.val_dataloader.dataset = dict(data, metainfo=config.train_dataloader.dataset.get('metainfo', {}))
    report = check_config(config, RANDOM)
    assert found(report)['data'] == 'error' and 'stop at the first validation: ' in said(report), report.findings
    assert ('do not fit' if wrong == 'label' else str(folder)) in said(report)
    assert report.context.terms and report.exit_code() == 2


def test_a_config_without_validation_is_told(tmp_path: Path) -> None:
    config = toys.run_config(tmp_path, toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn')))
    for name in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        config[name] = None  # as mmengine asks for it, and where a base has one
    report = check_config(config, Options())
    assert not report.stopped and report.verdict != 'error'
    (teacher,) = report.context.teachers
    assert teacher.metric_note == 'not tested: the config has no validation set'
    # COCO's metric without a file reads those that the pipeline packs.
    loader = dict(batch_size=1, dataset=dict(type='mmdistill_dense.ToyDetDataset'), sampler=dict(type='DefaultSampler'))
    validation = dict(val_dataloader=loader, val_evaluator=dict(type='CocoMetric'), val_cfg=dict())
    report = check_config(toys.det_run_config(tmp_path, toys.det_net(), **validation), Options(val=0))
    assert report.stopped == 'predicting a picture of validation'
    message = report.findings[-1].message
    assert 'val_evaluator takes no picture as val_dataloader.dataset.pipeline gives it' in message
    assert "Set val_evaluator.ann_file, or add 'instances' to meta_keys" in message


LRASPP = 'mmseg::mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024.py'


def test_a_student_that_cannot_predict_pictures_of_validation(tmp_path: Path) -> None:
    """Its training crop is large enough: the training would stop at its first evaluation."""
    head = dict(num_classes=toys.NUM_CLASSES)
    config = toys.run_config(
        tmp_path, dict(cfg=LRASPP, pretrained=None, data_preprocessor=dict(size=(400, 400)), decode_head=head)
    )
    first, last = config.val_dataloader.dataset.pipeline
    config.val_dataloader.dataset.pipeline = [first, dict(type='Resize', scale=(400, 300), keep_ratio=True), last]
    config.pop('val_evaluator')  # which needs labels of the file's size, and these are resized too
    report = check_config(config, Options(weights=False, val=0))
    assert report.stopped == 'predicting a picture of validation'
    message = report.findings[-1].message
    assert 'EncoderDecoder cannot predict a picture of 300x300' in message and 'Resize.scale=(400, 300)' in message
    assert 'can predict one of 480x480' in message and '--size' in message


def test_a_prediction_leaves_the_student_in_training(seg: CheckReport) -> None:
    model = seg.context.model.train()
    init_default_scope('mmseg')  # as the stages before it do
    predict(seg.context)
    assert model.training


def test_the_hint_at_a_failed_step_is_that_of_its_error() -> None:
    """Batch norm alone asks for two pictures, and queries for larger ones."""
    made = CheckContext(
        Config({}), Options(batch=1), model=toys.build_plain(toys.det_net()), batch_shape=[[1, 3, 64, 96]]
    )
    with pytest.raises(ValueError) as norm:
        torch.nn.BatchNorm2d(2).train()(torch.zeros(1, 2, 1, 1))
    assert 'needs two pictures' in _advice(STEPPING, made, norm.value)
    assert _advice(STEPPING, made, RuntimeError('the size of tensor a must match')) == ''
    made.model.num_queries = 900
    with pytest.raises(RuntimeError) as queries:
        torch.zeros(1, 129).topk(900)
    assert 'fewer places than the network has queries (900)' in _advice(STEPPING, made, queries.value)


class Knows(torch.nn.Module):
    """A detector that predicts the labels."""

    def val_step(self, batch: dict[str, Any]) -> list[Any]:
        for sample in batch['data_samples']:
            truth = sample.gt_instances
            scores = torch.ones(len(truth))
            sample.pred_instances = InstanceData(bboxes=truth.bboxes.tensor, labels=truth.labels, scores=scores)
        return batch['data_samples']


def test_coco_scores_are_of_the_tested_pictures_alone(tmp_path: Path) -> None:
    init_default_scope('mmdet')
    root, file = box_folder(tmp_path), str(tmp_path / 'annotations/instances_train.json')
    pipeline = [dict(type=step) for step in ('LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs')]
    pipeline[1]['with_bbox'] = True
    data = dict(type='mmdistill_dense.CocoDataset', data_root=str(root), ann_file=file, data_prefix=dict(img='train'))
    data.update(metainfo=dict(classes=('red', 'white')), pipeline=pipeline, test_mode=True)
    config = Config(dict(val_dataloader=dict(dataset=data), val_evaluator=dict(type='CocoMetric', ann_file=file)))
    context = CheckContext(config, Options(val=2))
    context.validation = DATASETS.build(data)
    teacher: Any = SimpleNamespace(network=Knows(), pairs=None)
    scores, count = stages.test_pictures(context, teacher)
    assert count == 2 and scores['coco/bbox_mAP'] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(('value', 'words'), [(None, ''), (math.nan, 'decode_head.conv_seg.bias holds NaN. The')])
def test_a_wrong_teacher_file(tmp_path: Path, value: float | None, words: str) -> None:
    """One that is missing, and one that is refused; what else is: tests/weights."""
    path = tmp_path / 'teacher.pth'
    if value is not None:
        state = torch.load(toys.teacher_file(), weights_only=True)['state_dict']
        state['decode_head.conv_seg.bias'].fill_(value)
        torch.save({'state_dict': state}, path)
    config = seg_config(tmp_path)
    config.model.teacher.checkpoint = str(path)
    report = check_config(config, FAST)
    assert report.stopped == 'loading the weights' and str(path) in said(report) and words in said(report)
    assert '--no-weights' in printed(report) and report.exit_code() == 2


def test_load_from_may_be_an_address_without_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in training, which finds its file in torch's cache."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    file = tmp_path / 'hub/checkpoints/whole.pth'
    file.parent.mkdir(parents=True)
    state = toys.build_plain(toys.seg_net()).state_dict()
    state.pop('decode_head.conv_seg.bias')
    torch.save({'state_dict': state}, file)
    config = seg_config(tmp_path)
    config.load_from = 'https://example.org/whole.pth'
    report = check_config(config, FAST)
    assert report.context.started == (len(state), len(state) + 1) and not report.stopped
    assert f'{len(state)} of {len(state) + 1} tensors' in printed(report)


# The command


def test_the_command_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / 'config.py', tmp_path / 'check.json'
    seg_config(tmp_path).dump(config)
    options = ['--no-weights', '--size', '64', '96', '--batch', '3', '--json', str(out)]
    assert main(['check', str(config), *options, '--cfg-options', 'auto_scale_lr.base_batch_size=8']) == 0
    assert 'OK, with 1 warning' in capsys.readouterr().out
    content = json.loads(out.read_text(encoding='utf-8'))
    assert content['batch'] == {'real': False, 'shape': [[3, 3, 64, 96]], 'pictures': None}
    (tmp_path / 'config.py').write_text('model = dict(')
    assert main(['check', str(tmp_path / 'config.py')]) == 2
    assert re.search(r'^ERROR .*config.py cannot be read: .* line 1 is no Python', capsys.readouterr().err)


def test_sync_bn_is_checked_on_a_cpu(tmp_path: Path) -> None:
    """Most segmentors of the zoo have it; training in one process makes it an ordinary BN."""
    norm = dict(norm_cfg=dict(type='SyncBN', requires_grad=True))
    model = toys.model_config(toys.seg_net('fcn', backbone=norm, decode_head=norm), toys.seg_teacher('fcn'))
    report = check_config(toys.run_config(tmp_path, model, auto_scale_lr=dict(base_batch_size=2)), FAST)
    assert report.verdict != 'error' and report.context.terms, report.findings


# Pictures without labels


def with_pictures(folder: Path, pictures: str) -> Config:
    distillers = dict(kd=dict(type='LogitKD'), fit=dict(type='FitNet', student_tap='backbone[3]', align='conv'))
    unlabelled = dict(data_root=pictures, ratio=1.5)
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers, unlabelled=unlabelled)
    return toys.run_config(folder, model)


def test_pictures_without_labels_are_in_the_step(tmp_path: Path) -> None:
    report = check_config(with_pictures(tmp_path, toys.picture_folder()), Options(val=2))
    names = [term.name for term in report.context.terms]
    assert {'distill.kd.unlabelled_loss_kd', 'distill.fit.unlabelled_loss_fitnet'} < set(names)
    rows = {row.distiller: row.student_shape[0] for row in report.context.taps}
    assert rows == dict(kd=2, fit=2), 'the shapes are those of the labelled pictures'
    assert '6 pictures without labels, 3 a step' in printed(report)
    assert report.as_dict()['unlabelled']['pictures'] == 6
