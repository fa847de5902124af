"""A training of segmentation with queues and memories, and pictures without labels."""

default_scope = 'mmseg'
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='net.py'),
    teacher=dict(cfg='net.py', checkpoint='teacher.pth'),
    distillers=dict(
        pcd=dict(
            type='PCD',
            student_tap='backbone[1]',
            queue_size=24,
            enqueue='pixels',
            keys_per_image=2,
            num_pixels=32,
            center=True,
            attention=dict(num_heads=2),
            clip_max_norm=1.0,
            schedule=dict(warmup=4),
        ),
        cirkd=dict(type='CIRKD', pixel_memory=24, region_memory=3, student_tap='decode_head.conv_seg:input'),
        kd=dict(type='LogitKD', balance=0.5),
    ),
    unlabelled=dict(data_root='pictures/more', ratio=0.5),
)
sources = dict(
    type='BaseSegDataset',
    data_root='pictures',
    data_prefix=dict(img_path='img', seg_map_path='ann'),
    img_suffix='.png',
    seg_map_suffix='.png',
    metainfo=dict(classes=('ground', 'red', 'blue')),
)
steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
flips = [dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion')]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(sources, pipeline=[*steps, *flips, dict(type='PackSegInputs')]),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(sources, pipeline=[*steps, dict(type='PackSegInputs')]),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_dataloader, test_evaluator = val_dataloader, val_evaluator
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
param_scheduler = [dict(type='PolyLR', power=0.9, by_epoch=False, begin=0, end=8)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=1000)
custom_hooks = [dict(type='EMAHook', momentum=0.5)]
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    distill=dict(type='mmdistill_dense.DistillHook'),
)
log_processor = dict(by_epoch=False, window_size=1)
randomness = dict(seed=5)
work_dir = 'work'
del sources, steps, flips
