"""What iteration-based segmentation schedules share: loops, log and checkpoint intervals."""

val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    distill=dict(type='mmdistill_dense.DistillHook'),  # silent for ordinary models
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4000, save_best='mIoU', max_keep_ckpts=2),
    visualization=dict(type='SegVisualizationHook'),
)
