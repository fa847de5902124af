"""The checks of the schedule: the end of the run, the learning rate, and the checkpoints on the way."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmseg.evaluation import IoUMetric

from mmdistill_dense.apps.check import Finding, Options
from mmdistill_dense.apps.check import config_rules as schedule_rules
from mmdistill_dense.apps.check.context import Findings, Subject
from mmdistill_dense.apps.suite.preflight import check_metric
from mmdistill_dense.config.values import scores_of

STEPS = dict(type='IterBasedTrainLoop', max_iters=4000)
EPOCHS = dict(by_epoch=True, max_epochs=12)
POLY = dict(type='PolyLR', eta_min=1e-4, begin=0, end=4000, by_epoch=False)


def found(rule: Any, **config: Any) -> list[Finding]:
    made: Findings = rule(Subject(Config(config), Options()))
    return list(made)


@pytest.mark.parametrize(('loop', 'levels'), [(EPOCHS, ['error']), (STEPS, [])], ids=['epochs', 'steps'])
def test_an_epoch_that_never_ends(loop: dict, levels: list[str]) -> None:
    sampler = dict(type='InfiniteSampler', shuffle=True)
    assert [
        one.level for one in found(schedule_rules.endless, train_cfg=loop, train_dataloader=dict(sampler=sampler))
    ] == levels


@pytest.mark.parametrize(
    ('loop', 'scheduler', 'words'),
    [
        (STEPS, POLY, None),
        (STEPS, {**POLY, 'end': 4001}, None),
        (STEPS, {**POLY, 'by_epoch': True}, 'counts epochs, but the run counts iterations'),
        (STEPS, dict(type='PolyLR'), 'counts epochs'),
        (STEPS, dict(type='ReduceOnPlateauLR', monitor='loss'), None),
        (STEPS, dict(type='CosineAnnealingLR', T_max=12, convert_to_iter_based=True), None),
        (STEPS, {**POLY, 'end': 40000}, 'ends at 40000, but the run ends at 4000 iterations'),
        (STEPS, dict(type='CosineAnnealingLR', T_max=40000, by_epoch=False), 'ends at 40000'),
        (STEPS, {**POLY, 'end': 1000}, None),
        (STEPS, {**POLY, 'end': 1000, 'eta_min': 0}, 'to 0 at 1000, but the run goes on until 4000'),
        (EPOCHS, dict(type='MultiStepLR', milestones=[8, 11]), None),
        (EPOCHS, dict(type='MultiStepLR', milestones=[16, 22]), 'ends at 16, but the run ends at 12 epochs'),
        (EPOCHS, dict(type='LinearLR', end=500, by_epoch=False), None),
    ],
    ids=str,
)
def test_a_learning_rate_that_does_not_follow_the_run(loop: dict, scheduler: dict, words: str | None) -> None:
    levels = found(schedule_rules.rate, train_cfg=loop, param_scheduler=[scheduler])
    assert [one.level for one in levels] == (['warning'] if words else [])
    assert all(words in one.message for one in levels)
    assert found(schedule_rules.rate, train_cfg=loop, param_scheduler=scheduler) == levels  # one, without a list


def test_a_warm_up_that_ends_early_is_no_end_of_learning() -> None:
    warm = dict(type='LinearLR', start_factor=0.1, end=100, by_epoch=False)
    assert not found(schedule_rules.rate, train_cfg=STEPS, param_scheduler=[warm])
    assert not found(schedule_rules.rate, train_cfg=STEPS, param_scheduler=[warm, {**POLY, 'begin': 100, 'eta_min': 0}])


@pytest.mark.parametrize(('begin', 'end', 'levels'), [(30, 2, ['error']), (2, 2, ['error']), (2, 3, [])])
def test_a_schedule_without_steps(begin: int, end: int, levels: list[str]) -> None:
    """mmengine refuses it where the run begins: of a suite, after the teacher was trained."""
    schedule = dict(type='LinearLR', begin=begin, end=end, by_epoch=False)
    assert [one.level for one in found(schedule_rules.rate, train_cfg=STEPS, param_scheduler=[schedule])] == levels


@pytest.mark.parametrize(
    ('loop', 'hook', 'words'),
    [
        (STEPS, dict(by_epoch=False, interval=400), None),
        (STEPS, dict(interval=1), 'counts epochs'),
        (STEPS, dict(by_epoch=False, interval=16000), 'has the interval 16000'),
        (STEPS, dict(by_epoch=False, interval=-1), None),
        (EPOCHS, dict(interval=1), None),
        (EPOCHS, dict(by_epoch=False, interval=500), None),
        (EPOCHS, dict(interval=20), 'the run ends at 12 epochs'),
    ],
    ids=str,
)
def test_a_run_that_keeps_nothing_on_the_way(loop: dict, hook: dict, words: str | None) -> None:
    option = dict(checkpoint=dict(type='CheckpointHook', **hook))
    messages = [one.message for one in found(schedule_rules.checkpoints, train_cfg=loop, default_hooks=option)]
    assert len(messages) == (words is not None) and all(words in one for one in messages)


def test_without_a_hook_of_its_own_a_run_of_iterations_keeps_nothing_but_one_that_wants_none_is_left_alone() -> None:
    assert found(schedule_rules.checkpoints, train_cfg=STEPS)
    assert not found(schedule_rules.checkpoints, train_cfg=EPOCHS)
    assert not found(schedule_rules.checkpoints, train_cfg=STEPS, default_hooks=dict(checkpoint=None))


@pytest.mark.parametrize(
    ('evaluator', 'name', 'wrong'),
    [
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
    ],
    ids=str,
)
def test_a_best_checkpoint_by_a_score_that_nothing_gives(evaluator: Any, name: Any, wrong: bool) -> None:
    hooks = dict(checkpoint=dict(save_best=name))
    levels = [one.level for one in found(schedule_rules.best, val_evaluator=evaluator, default_hooks=hooks)]
    assert levels == (['error'] if wrong else [])
    if isinstance(name, str) and name != 'auto':  # a suite says the same
        with pytest.raises(ValueError, match='score of val_evaluator') if wrong else nullcontext():
            check_metric(Config(dict(val_evaluator=evaluator)), name, 'suite')


def test_the_scores_of_segmentation_are_those_that_the_metric_gives() -> None:
    for name in ('mIoU', 'mDice', 'mFscore'):
        scores = scores_of(dict(type='IoUMetric', iou_metrics=name))
        metric = IoUMetric(iou_metrics=[name])
        metric.dataset_meta = dict(classes=('a', 'b'))
        assert set(metric.compute_metrics([tuple(torch.ones(2) for _ in range(4))])) == scores
