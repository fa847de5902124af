"""A run small enough for many processes: a ResNet-18 of width 8 with SyncBN on generated pictures, no distiller."""

import sys

import pytest

from tests.engine.processes import ROOT, environment, run

TINY = """
_base_ = '{root}/configs/_base_/runtime_seg.py'
norm = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[128.0] * 3, std=[60.0] * 3, size=(64, 64)),
    backbone=dict(type='ResNet', depth=18, base_channels=8, norm_cfg=norm),
    decode_head=dict(type='FCNHead', in_channels=64, channels=16, num_convs=1, num_classes=7, norm_cfg=norm),
    test_cfg=dict(mode='whole'))
pipeline = [dict(type='mmdistill_dense.LoadShapes'), dict(type='PackSegInputs')]
painting = dict(size=(64, 64))
dataset = dict(type='mmdistill_dense.ShapesSegDataset', num_images=8, painting=painting, pipeline=pipeline)
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dataset, sampler=dict(type='InfiniteSampler'))
val_dataloader = dict(batch_size=1, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'), logger=dict(type='LoggerHook', interval=1),
    param_scheduler=dict(type='ParamSchedulerHook'), checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4),
    sampler_seed=dict(type='DistSamplerSeedHook'), visualization=dict(type='SegVisualizationHook'))
tta_pipeline = [
    dict(type='mmdistill_dense.LoadShapes'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)], [dict(type='PackSegInputs')]])]
"""


@pytest.fixture(scope='session')
def tiny_config(tmp_path_factory):
    """The config as a file."""
    path = tmp_path_factory.mktemp('tiny') / 'tiny.py'
    path.write_text(TINY.format(root=ROOT))
    return path


@pytest.fixture(scope='session')
def two_processes(tiny_config, tmp_path_factory):
    """The work folder and the output of a run of two gloo processes, started from a folder that is not the checkout."""
    folder = tmp_path_factory.mktemp('dist')
    command = [sys.executable, '-m', 'mmdistill_dense', 'train', tiny_config, '--processes', 2]
    log = run(command, folder, environment())
    return folder / 'work_dirs' / 'tiny', log
