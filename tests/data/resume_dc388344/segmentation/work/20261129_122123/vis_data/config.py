custom_hooks = [
    dict(momentum=0.5, type='EMAHook'),
]
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=1000, type='CheckpointHook'),
    distill=dict(type='mmdistill_dense.DistillHook'),
    logger=dict(interval=1, log_metric_by_epoch=False, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'))
default_scope = 'mmseg'
launcher = 'none'
log_processor = dict(by_epoch=False, window_size=1)
model = dict(
    distillers=dict(
        cirkd=dict(
            pixel_memory=24,
            region_memory=3,
            student_tap='decode_head.conv_seg:input',
            type='CIRKD'),
        kd=dict(balance=0.5, type='LogitKD'),
        pcd=dict(
            attention=dict(num_heads=2),
            center=True,
            clip_max_norm=1.0,
            enqueue='pixels',
            keys_per_image=2,
            num_pixels=32,
            queue_size=24,
            schedule=dict(warmup=4),
            student_tap='backbone[1]',
            type='PCD')),
    student=dict(cfg='net.py'),
    teacher=dict(cfg='net.py', checkpoint='teacher.pth'),
    type='mmdistill_dense.DistillModel',
    unlabelled=dict(data_root='pictures/more', ratio=0.5))
optim_wrapper = dict(
    optimizer=dict(lr=0.1, momentum=0.9, type='SGD'), type='OptimWrapper')
param_scheduler = [
    dict(begin=0, by_epoch=False, end=8, power=0.9, type='PolyLR'),
]
randomness = dict(seed=5)
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        data_root='pictures',
        img_suffix='.png',
        metainfo=dict(classes=(
            'ground',
            'red',
            'blue',
        )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        seg_map_suffix='.png',
        type='BaseSegDataset'),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
train_cfg = dict(max_iters=8, type='IterBasedTrainLoop', val_interval=1000)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        data_root='pictures',
        img_suffix='.png',
        metainfo=dict(classes=(
            'ground',
            'red',
            'blue',
        )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
        seg_map_suffix='.png',
        type='BaseSegDataset'),
    num_workers=0,
    sampler=dict(shuffle=True, type='InfiniteSampler'))
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        data_root='pictures',
        img_suffix='.png',
        metainfo=dict(classes=(
            'ground',
            'red',
            'blue',
        )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        seg_map_suffix='.png',
        type='BaseSegDataset'),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
work_dir = 'work'
