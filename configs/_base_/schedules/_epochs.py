"""What epoch-based detection schedules share: loops, log and checkpoint intervals."""

val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    distill=dict(type='mmdistill_dense.DistillHook'),  # silent for ordinary models
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
    visualization=dict(type='DetVisualizationHook'),
)
