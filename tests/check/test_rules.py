"""Single checks, on facts that are made up."""

import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.evaluation import IoUMetric

from mmdistill_dense.apps.check import Finding, Options
from mmdistill_dense.apps.check.context import TeacherFacts
from mmdistill_dense.apps.check.run import CheckReport
from mmdistill_dense.apps.check.stages import judge_shares, judge_teachers, read_data
from mmdistill_dense.apps.inspect.gradients import Pull, Term
from mmdistill_dense.apps.suite.actions import check_metric
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.config.values import evaluator_scores, num_classes
from mmdistill_dense.distillers import MGD, PCD, AfDCD
from mmdistill_dense.distillers.feature import Level
from mmdistill_dense.guards import run_rules
from mmdistill_dense.guards.config import check_class_weights, check_num_classes, check_other_heads
from mmdistill_dense.guards.findings import worst
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.utils.validate import message_of
from tests import toys
from tests.guards.roads import subject


def term(name: str, norm: float, cosine: float = 1.0) -> Term:
    return Term(name, norm, 0.5, {'backbone': Pull(norm, 0.5, cosine)})


def distilled(weight: float = 1.0) -> Any:
    return SimpleNamespace(distillers={'kd': SimpleNamespace(weight=lambda: weight)})


@pytest.mark.parametrize(('norm', 'level', 'word'), [
    (0.0, 'warning', 'no gradient'), (1e-3, 'warning', 'Raise'), (0.5, None, ''), (30.0, 'note', 'lower'),
    (1e4, 'warning', 'lower'),
])  # fmt: skip
def test_a_distiller_pulls_beside_the_task(norm: float, level: str | None, word: str) -> None:
    made = subject(model=distilled(), terms=[*map(term, ('task', 'distill.kd.x', 'distill.kd2.x'), (0.9, norm, 0.1))])
    findings = list(judge_shares(made))
    assert [finding.level for finding in findings] == ([level] if level else [])
    made.started = (3, 3)
    later = [finding.level for finding in judge_shares(made)]
    assert later == (['warning'] if level else []), 'of a trained student, a large share is no mistake of the start'
    assert all(word in f'{finding.message} {finding.advice}' for finding in findings)


def test_random_networks_are_not_judged() -> None:
    terms = [term('task', 1.0), term('distill.kd.loss_kd', 1e6, -1.0)]
    for facts in (dict(options=Options(weights=False)), dict(untaught=['kd'])):
        assert not list(judge_shares(subject(model=distilled(), terms=terms, **facts)))
    off = subject(model=distilled(0.0), terms=[term('task', 1.0), term('distill.kd.loss_off', 0.0)])
    (finding,) = judge_shares(off)
    assert finding.level == 'note' and 'schedule' in finding.message


def model(**keys: Any) -> dict[str, Any]:
    return dict(model=dict(type='mmdistill_dense.DistillModel', **keys))


def loaded(persistent: bool, custom: bool = False, **loop: Any) -> dict[str, Any]:
    hook = dict(type='mmdistill_dense.DistillHook')
    hooks: dict[str, Any] = dict(custom_hooks=[hook]) if custom else dict(default_hooks=dict(distill=hook))
    loader = dict(num_workers=2, persistent_workers=persistent)
    return dict(train_cfg=loop, train_dataloader=loader, **hooks)


def replaced(**backbone: Any) -> dict[str, Any]:
    return model(
        student=dict(type='EncoderDecoder', backbone=dict(frozen_stages=2)), backbone=dict(depth=18, **backbone)
    )


def batched(side: int) -> dict[str, Any]:
    """Zoo configs with large-scale jitter pad everything to 1024 x 1024."""
    pictures, augments = [torch.zeros(3, 192, 256), torch.zeros(3, 200, 100)], dict(batch_augments=[])
    return dict(batch=dict(inputs=pictures), network=dict(data_preprocessor=augments), batch_shape=[[2, 3, side, side]])


def optimized(kind: str) -> dict[str, Any]:
    segformer = dict(cfg='mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py')
    return dict(**model(student=segformer), optim_wrapper=dict(optimizer=dict(type=kind, lr=0.01)))


def frozen(*trained: bool) -> Any:
    backbone = torch.nn.ModuleList(torch.nn.Linear(1, 1).requires_grad_(is_trained) for is_trained in trained)
    return dict(model=SimpleNamespace(backbone=backbone, distillers={'kd': 1}))


def drawn(loop: dict[str, Any]) -> dict[str, Any]:
    return dict(config=dict(train_cfg=loop, train_dataloader=dict(sampler=dict(type='InfiniteSampler', shuffle=True))))


def ignoring(label: int, metric: dict[str, int]) -> dict[str, Any]:
    config = dict(val_evaluator=[dict(type='IoUMetric', **metric)])
    return dict(config=config, network=dict(decode_head=dict(num_classes=11, ignore_index=label)))


def kept(loop: dict[str, Any], **hook: Any) -> dict[str, Any]:
    hooks = dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', **hook))) if hook else {}
    return dict(config=dict(train_cfg=loop, **hooks))


STEPS = dict(type='IterBasedTrainLoop', max_iters=4000)
EPOCHS = dict(by_epoch=True, max_epochs=12)
POLY = dict(type='PolyLR', eta_min=1e-4, begin=0, end=4000, by_epoch=False)
LINEAR = dict(type='LinearLR', by_epoch=False)
WARM = dict(LINEAR, start_factor=0.1, end=100)
TAUGHT = dict(distillers=dict(kd=dict(type='LogitKD')))
OTHER = dict(val_dataloader=['b', 'a'])
PAIR_OF_VIEWS = dict(batch=dict(inputs=[batched(9)['batch']['inputs']]), batch_shape=[[2, 3, 9, 9]] * 2)


@pytest.mark.parametrize(('rule', 'facts', 'level', 'words'), [
    (run_rules.workers, dict(config=loaded(True, by_epoch=True, max_epochs=3)), 'error', 'resumed exactly'),
    (run_rules.workers, dict(config=loaded(True, custom=True, by_epoch=True, max_epochs=3)), 'error', 'resumed'),
    (run_rules.workers, dict(config=loaded(False, by_epoch=True, max_epochs=3)), '', ''),
    (run_rules.workers, dict(config=loaded(True, type='IterBasedTrainLoop', max_iters=3)), '', ''),
    (run_rules.replaced, dict(config=replaced()), '', ''),
    (run_rules.validation_classes, dict(scored_classes=OTHER, data_classes=['b', 'a']), '', ''),
    (run_rules.validation_classes, dict(scored_classes=OTHER, data_classes=['a', 'b']), 'warning', 'by position'),
    (run_rules.labels, dict(network=dict(decode_head=dict(num_classes=3, ignore_index=0))), 'warning', '=0 of'),
    (run_rules.labels, dict(network=dict(decode_head=dict(num_classes=3, ignore_index=2))), 'warning', '=2 of'),
    (run_rules.labels, dict(network=dict(decode_head=dict(num_classes=3, ignore_index=3))), '', ''),
    (run_rules.labels, dict(network=dict(decode_head=dict(num_classes=3, ignore_index=255))), '', ''),
    (run_rules.labels, dict(network=dict(bbox_head=dict(num_classes=1203))), '', ''),
    (run_rules.optimizer, dict(config=optimized('SGD')), 'warning', 'trains it with AdamW'),
    (run_rules.optimizer, dict(config=optimized('AdamW')), '', ''),
    (run_rules.optimizer, dict(config=dict(model=dict(student=dict(type='FCN')))), '', ''),
    (run_rules.hook, dict(config=model(**TAUGHT)), 'error', 'no DistillHook'),
    (run_rules.hook, dict(config=model(**TAUGHT) | dict(custom_hooks=[dict(type='DistillHook')])), '', ''),
    (run_rules.padded, batched(340), 'warning', r'of 200x256 to 340x340.*\.batch_augments to'),
    (run_rules.padded, batched(310), '', ''),
    (run_rules.trained, frozen(False, False), 'warning', "nothing in the student's backbone is trained"),
    (run_rules.trained, frozen(False, True), '', ''),
    (run_rules.padded, PAIR_OF_VIEWS, '', ''),
    (run_rules.batch_contents, dict(config=dict(val_dataloader=dict(batch_size=0))), 'error', '.batch_size=0'),
    (run_rules.batch_contents, dict(config=dict(val_dataloader=dict(batch_size=-1))), 'error', 'batch_size=-1'),
    (run_rules.batch_contents, dict(config=dict(val_dataloader=dict(batch_size='8'))), 'error', "batch_size='8'"),
    (run_rules.endless, drawn(STEPS), '', ''),
    (run_rules.evaluators, ignoring(11, {}), 'warning', 'ignore the label 11, the metric'),
    (run_rules.evaluators, ignoring(11, dict(ignore_index=11)), '', ''),
    (run_rules.evaluators, ignoring(255, {}), '', ''),
    (run_rules.evaluators, ignoring(2, {}), '', ''),
    (run_rules.checkpoints, kept(STEPS), 'warning', ''),
    (run_rules.checkpoints, kept(EPOCHS), '', ''),
    (run_rules.checkpoints, dict(config=dict(train_cfg=STEPS, default_hooks=dict(checkpoint=None))), '', ''),
    (run_rules.checkpoints, kept(STEPS, by_epoch=False, interval=400), '', ''),
    (run_rules.checkpoints, kept(STEPS, interval=1), 'warning', 'counts epochs'),
    (run_rules.checkpoints, kept(STEPS, by_epoch=False, interval=-1), '', ''),
    (run_rules.checkpoints, kept(EPOCHS, interval=1), '', ''),
    (run_rules.checkpoints, kept(EPOCHS, by_epoch=False, interval=500), '', ''),
    (run_rules.checkpoints, kept(EPOCHS, interval=20), 'warning', 'the run ends at 12 epochs'),
])  # fmt: skip
def test_a_rule_finds_what_is_wrong_alone(rule: Any, facts: dict[str, Any], level: str, words: str) -> None:
    actual = list(rule(subject(**facts)))
    assert [finding.level for finding in actual] == [level] * bool(level)
    assert all(re.search(words, f'{finding.message} {finding.advice}') for finding in actual)


@pytest.mark.parametrize(('loop', 'schedulers', 'words'), [
    (STEPS, [POLY], ''),
    (STEPS, [{**POLY, 'end': 4001}], ''),
    (STEPS, [{**POLY, 'by_epoch': True}], 'counts epochs, but the run counts iterations'),
    (STEPS, [dict(type='PolyLR')], 'counts epochs'),
    (STEPS, [dict(type='ReduceOnPlateauLR', monitor='loss')], ''),
    (STEPS, [dict(type='CosineAnnealingLR', T_max=12, convert_to_iter_based=True)], ''),
    (STEPS, [dict(type='CosineAnnealingLR', T_max=40000, by_epoch=False)], 'ends at 40000'),
    (STEPS, [{**POLY, 'end': 1000}], ''),
    (STEPS, [{**POLY, 'end': 1000, 'eta_min': 0}], 'to 0 at 1000, but the run goes on until 4000'),
    (EPOCHS, [dict(type='MultiStepLR', milestones=[8, 11])], ''),
    (EPOCHS, [dict(type='MultiStepLR', milestones=[16, 22])], 'ends at 16, but the run ends at 12 epochs'),
    (EPOCHS, [{**LINEAR, 'end': 500}], ''),
    (STEPS, [WARM], ''),  # no end of learning
    (STEPS, [WARM, {**POLY, 'begin': 100, 'eta_min': 0}], ''),
    (STEPS, [{**LINEAR, 'begin': 30, 'end': 2}], 'ERROR'),  # mmengine refuses it where the run begins
    (STEPS, [{**LINEAR, 'begin': 2, 'end': 2}], 'ERROR'),
    (STEPS, [{**LINEAR, 'begin': 2, 'end': 3}], ''),
])  # fmt: skip
def test_a_learning_rate_that_does_not_follow_the_run(loop: dict, schedulers: list[dict], words: str) -> None:
    findings = [*run_rules.rate(subject(config=dict(train_cfg=loop, param_scheduler=schedulers)))]
    levels = [finding.level for finding in findings]
    assert levels == ([] if not words else ['error'] if words == 'ERROR' else ['warning'])
    assert words == 'ERROR' or all(words in finding.message for finding in findings)
    alone = subject(config=dict(train_cfg=loop, param_scheduler=schedulers[0]))
    assert len(schedulers) > 1 or [*run_rules.rate(alone)] == findings, 'one, without a list'


@pytest.mark.parametrize(('evaluator', 'name', 'wrong'), [
    (dict(type='IoUMetric', iou_metrics=['mIoU']), 'mIoU', False),
    (dict(type='mmseg.IoUMetric', iou_metrics=['mDice']), 'mIoU', True),
    (dict(type='IoUMetric', iou_metrics=['mDice']), ['mDice', 'mIoU'], True),
    (dict(type='IoUMetric', iou_metrics=['mFscore', 'mIoU']), 'mPrecision', False),
    (dict(type='IoUMetric', prefix='val'), 'mIoU', True),
    (dict(type='IoUMetric', prefix='val'), 'val/mIoU', False),
    (dict(type='IoUMetric', iou_metrics=['mDice']), 'auto', False),
    ([dict(type='IoUMetric', iou_metrics=['mDice']), dict(type='IoUMetric')], 'mIoU', False),
    (dict(type='CocoMetric', metric='bbox'), 'coco/bbox_mAP', False),
    (dict(type='CocoMetric', metric='bbox'), 'coco/segm_mAP', True),
    (dict(type='CocoMetric', metric=['bbox', 'segm']), 'coco/segm_mAP_50', False),
    (dict(type='CocoMetric', metric='bbox'), 'bbox_mAP', True),
    (dict(type='MyMetric'), 'anything', False),
    (dict(type='IoUMetric'), None, False),
    (dict(type='IoUMetric', iou_metrics='mIoU'), 'mIoU', False),
    (dict(type=IoUMetric, iou_metrics='mDice'), 'mIoU', True),
    (dict(type='CocoMetric', metric='bbox', classwise=True), 'coco/car_precision', False),
    (dict(type='CocoMetric', metric='bbox', classwise=True), 'coco/bbox_AP', True),
    (dict(type='CocoMetric', metric='bbox', metric_items=['mAP']), 'coco/bbox_mAP_50', True),
])  # fmt: skip
def test_a_best_checkpoint_by_a_score_that_nothing_gives(evaluator: Any, name: Any, wrong: bool) -> None:
    hooks = dict(checkpoint=dict(save_best=name))
    actual = run_rules.scores(subject(config=dict(val_evaluator=evaluator, default_hooks=hooks)))
    assert [finding.level for finding in actual] == (['error'] if wrong else [])
    if isinstance(name, str) and name != 'auto':  # a suite says the same
        with pytest.raises(ValueError, match='score of val_evaluator') if wrong else nullcontext():
            check_metric(Config(dict(val_evaluator=evaluator)), name, 'suite')


def test_the_scores_of_segmentation_are_those_of_the_metric() -> None:
    for name in ('mIoU', 'mDice', 'mFscore'):
        metric = IoUMetric(iou_metrics=[name])
        metric.dataset_meta = dict(classes=('a', 'b'))
        scores = metric.compute_metrics([tuple(torch.ones(2) for _ in range(4))])
        assert set(scores) == evaluator_scores(dict(type='IoUMetric', iou_metrics=name))


@pytest.mark.parametrize(('shape', 'reduction', 'out'), [
    ((2048, 64, 128), 'sum', None),
    ((2048, 45, 45), 'sum', None),
    ((2048, 64, 64), 'sum', None),
    ((512, 16, 16), 'sum', '0.26 in units of the mean'),
    ((512, 16, 16), 'mean', None),
])  # fmt: skip
def test_a_weight_of_a_sum_on_a_map_of_another_size(shape: tuple[int, ...], reduction: str, out: str | None) -> None:
    segmentor: dict[str, Any] = dict(decode_head={})
    made = dict(afdcd=AfDCD(fd_weight=2e-6, fd_reduction=reduction), mgd=MGD(alpha=2e-6, reduction=reduction))
    for distiller in made.values():
        distiller.levels = [Level(torch.Size((8, *shape[1:])), torch.Size(shape), 1.0, 'backbone[3]')]
    for name, distiller in made.items():
        model = SimpleNamespace(distillers={name: distiller, 'own': PCD()})
        texts = [finding.message for finding in run_rules.summed(subject(model=model, network=segmentor))]
        other = out or (name == 'mgd' and reduction == 'sum' and shape != (2048, 64, 64) and 'units of the mean')
        assert [other in message for message in texts] == [True] * bool(other)  # type: ignore[operator]
        assert not list(run_rules.summed(subject(model=model, network=dict(bbox_head={})))), 'a detector'
        elsewhere = subject(model=model, network=segmentor, options=Options(size=(64, 64)))
        assert not list(run_rules.summed(elsewhere)), 'no map of the run'


def test_labels_that_the_student_has_no_class_for() -> None:
    samples = toys.seg_batch()['data_samples']
    largest = max(int(sample.gt_sem_seg.data.max()) for sample in samples)
    for classes, levels in ((largest, ['error']), (largest + 1, [])):
        network = dict(decode_head=dict(num_classes=classes))
        made = subject(network=network, batch=dict(data_samples=samples))
        assert [finding.level for finding in run_rules.labels(made)] == levels
    samples[0].gt_sem_seg.data.fill_(255)
    samples[1].gt_sem_seg.data.fill_(0)
    assert not list(run_rules.labels(made)), '255 is ignored'
    made.network['decode_head']['ignore_index'] = 11
    (finding,) = run_rules.labels(made)
    assert '[255]' in finding.message and 'ignore_index: 11' in finding.message
    samples[0].gt_sem_seg.data.fill_(11)
    assert not list(run_rules.labels(made))


@pytest.mark.parametrize(('metric', 'words'), [
    (dict(mIoU=8.0), 'no better than chance on 4 validation pictures'), (dict(mIoU=40.0), ''),
    ({'coco/bbox_mAP_50': 0.0}, 'AP50 0.000'), ({}, ''),
])  # fmt: skip
def test_a_teacher_that_predicts_at_chance(metric: dict[str, float], words: str) -> None:
    facts = TeacherFacts('model.teacher', 'FCN', 10, metric=metric, metric_pictures=4)
    texts = [finding.message for finding in judge_teachers([facts], 10)]
    assert len(texts) == bool(words) and all(words in message for message in texts)


def test_repeated_pictures_count_once() -> None:
    config = toys.run_config('none', toys.seg_net('fcn')).to_dict()
    loader = config['train_dataloader']
    loader['dataset'] = dict(type='RepeatDataset', times=40, dataset=loader['dataset'])
    made = subject(config=config)
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert not list(read_data(made))
    assert (made.pictures, made.length) == (8, 320)


def test_the_gravest_finding_decides() -> None:
    note, warning, error = (Finding(level, 'x') for level in ('note', 'warning', 'error'))
    assert [worst(f) for f in ([], [note], [note, warning], [error, warning])] == ['ok', 'ok', 'warning', 'error']
    assert [CheckReport(subject(), f).exit_code(True) for f in ([], [note], [warning])] == [0, 0, 1]
    assert [CheckReport(subject(), f).exit_code() for f in ([warning], [warning, error])] == [0, 2]
    assert message_of(KeyError('no such tap')) == 'no such tap'
    assert message_of(RuntimeError('shape')) == 'RuntimeError: shape'


@pytest.mark.sample(2)
@pytest.mark.parametrize(('backbone', 'words'), [
    (dict(init_cfg=None), '76,384 parameters are frozen|batch norms keep'),
    (dict(init_cfg=None, frozen_stages=-1), ': 0 parameters are frozen, 20 batch norms keep'),
    (dict(init_cfg=None, frozen_stages=-1, norm_eval=False), None),
    (dict(), None),
])  # fmt: skip
def test_a_random_backbone_of_which_a_part_is_never_trained(backbone: dict[str, Any], words: str | None) -> None:
    """mmdet freezes the first stages and the norms, which is made for weights of a classifier."""
    option = dict(cfg='mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', backbone=backbone)
    config = load_model(option, 'model')
    made = subject(config=dict(model=config.model), network=config.model, model=build_network(config))
    actual = list(run_rules.random_and_fixed(made))
    assert [finding.level for finding in actual] == (['warning'] if words else [])
    assert not words or re.search(words, actual[0].message)


def test_counts_left_at_the_published_number_are_named() -> None:
    """Also an auxiliary head that was left at the published number, which mmseg trains in silence."""
    head, more = dict(num_classes=3), dict(num_classes=19)
    heads: dict[str, Any] = dict(decode_head=head, auxiliary_head=[head, dict(num_classes=2)])
    data = ('a', 'b', 'c')
    check_num_classes(data, 'model.student', heads)
    check_other_heads(data, 'model.student', heads)
    masks = dict(roi_head=dict(bbox_head=[head, more], mask_head=dict(num_classes=80, class_agnostic=True)))
    check_other_heads(data, 'model.student', masks)
    with pytest.raises(ValueError, match=r'set model\.student\.roi_head\.bbox_head\.1\.num_classes=3'):
        check_num_classes(data, 'model.student', masks)
    with pytest.raises(ValueError, match=r'set model\.student\.mask_head\.num_classes=3'):
        check_num_classes(data, 'model.student', dict(bbox_head=None, mask_head=dict(type='SOLOHead', num_classes=80)))
    with pytest.raises(ValueError, match=r'model\.student\.auxiliary_head\.0 predicts 19 classes.* has 3 \(a, b, c\)'):
        check_other_heads(data, 'model.student', dict(heads, auxiliary_head=[more]))
    for kind in ('STDCHead', 'FCNHead'):  # edges, and the same labels with too few classes
        few = dict(auxiliary_head=dict(type=kind, num_classes=2))
        with pytest.raises(ValueError, match='predicts 2 classes') if kind == 'FCNHead' else nullcontext():
            check_other_heads(data, 'model.student', few)
    # KNet's config has them below its parts alone.
    head = dict(kernel_generate_head=dict(num_classes=3), kernel_update_head=[dict(num_classes=150)])
    assert num_classes(dict(decode_head=head)) == 3
    with pytest.raises(ValueError, match=r'model\.student\.decode_head\.kernel_update_head\.0\.num_classes=3'):
        check_other_heads(('a', 'b', 'c'), 'model.student', dict(decode_head=head))
    # The loss itself would stop the first step, and name no key.
    queries = dict(num_classes=3, loss_cls=dict(class_weight=[1.0] * 3 + [0.1]), loss_mask=dict(type='X'))
    check_class_weights('model.student', dict(decode_head=queries, auxiliary_head=[dict(num_classes=19)]))
    lists = dict(num_classes=3, loss_decode=[dict(type='X'), dict(class_weight=[1.0] * 19)])
    with pytest.raises(ValueError, match=r'head\.0\.loss_decode\.1\.class_weight holds 19 .* num_classes=3: give 3'):
        check_class_weights('model.student', dict(decode_head=[lists]))


@pytest.mark.parametrize(
    'loop', [dict(max_iter=3), dict(type='IterBasedTrainLoop', max_iter=3), dict(by_epoch=True, max_epoch=3)]
)
def test_a_misspelt_key_of_the_runner_or_option_of_the_loop(loop: dict) -> None:
    with pytest.raises(TypeError, match=r"train_cfg: \w+ has no option 'max_\w+'.* Did you mean 'max_"):
        run_rules.keys(subject(config=dict(train_cfg=loop)))
    with pytest.raises(ValueError, match="load_form is a key that nothing reads. Did you mean 'load_from'"):
        run_rules.keys(subject(config=dict(load_form='a.pth')))
    run_rules.keys(subject(config=dict(load_from='a.pth', test_dataloader2=1)))


def test_a_metric_that_reads_other_boxes_than_its_loader(tmp_path: Path) -> None:
    loader = dict(dataset=dict(data_root=f'{tmp_path}/', ann_file='val.json'))
    config = dict(val_dataloader=loader, test_dataloader=loader, val_evaluator=dict(ann_file=f'{tmp_path}/val.json'))
    assert not list(run_rules.evaluators(subject(config=config)))
    config['test_evaluator'] = [dict(type='A'), dict(ann_file='data/coco/val.json')]
    (finding,) = run_rules.evaluators(subject(config=config))
    assert finding.level == 'error' and f'Set test_evaluator.ann_file={str(tmp_path / "val.json")!r}' in finding.advice
    (tmp_path / 'other.json').touch()
    config['test_evaluator'] = dict(ann_file=str(tmp_path / 'other.json'))
    assert [finding.level for finding in run_rules.evaluators(subject(config=config))] == ['warning']


def test_what_mmengine_adds_to_a_config_of_the_zoo_is_no_mistake(tmp_path: Path) -> None:
    """Each dict that changes one of ``_base_ = 'mmdet::…'`` gets a ``_scope_``."""
    file = tmp_path / 'student.py'
    file.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\ntrain_cfg = dict(max_epochs=4)\n"
        "param_scheduler = [dict(type='MultiStepLR', begin=0, end=4, by_epoch=True, milestones=[3])]\n"
        'default_hooks = dict(checkpoint=dict(interval=1))\n'
    )
    config = Config.fromfile(file)
    assert config.train_cfg['_scope_'] == 'mmdet'
    made = subject(config=config._cfg_dict.to_dict(), network=config.model)
    levels = [finding.level for rule in (*run_rules.CONSTRUCTION, *run_rules.CONFIG) for finding in rule(made) or ()]
    assert 'error' not in levels
    config.train_cfg.max_epoch = 4
    with pytest.raises(TypeError, match="no option 'max_epoch'"):
        run_rules.keys(subject(config=config._cfg_dict.to_dict()))
