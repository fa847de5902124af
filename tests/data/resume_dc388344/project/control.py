"""The student alone, with which every method is compared.

Optimizer and schedule of net.py: SGD at lr 0.4 for 16 pictures a step and 100 steps; here lr 0.05 for 2 pictures and
40 steps (6 passes).
"""

_base_ = [
    './data.py',
    './pair.py',
    __import__('mmdistill_dense').base('mmdistill_dense::_base_/runtime_seg.py'),
]
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
param_scheduler = []
auto_scale_lr = dict(base_batch_size=2)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40, val_interval=40)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
log_processor = dict(by_epoch=False)
default_hooks = dict(
    distill=dict(type='mmdistill_dense.DistillHook'),
    logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=40, max_keep_ckpts=2),
    visualization=dict(type='SegVisualizationHook'),
)
work_dir = '{{ fileDirname }}/work/{{ fileBasenameNoExtension }}'
