custom_hooks = [
    dict(momentum=0.5, type='EMAHook'),
]
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=4, type='CheckpointHook'),
    distill=dict(type='mmdistill_dense.DistillHook'),
    logger=dict(interval=1, log_metric_by_epoch=False, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'),
)
default_scope = 'mmseg'
log_level = 'ERROR'
log_processor = dict(by_epoch=False)
model = dict(
    distillers=dict(
        cirkd=dict(pixel_contrast=30, pixel_memory=20, region_contrast=9, region_memory=4, type='CIRKD'),
        fitnet=dict(balance=dict(ratio=0.5, until=1.0), clip_max_norm=1.0, student_tap='backbone[3]', type='FitNet'),
        kd=dict(loss_weight=50.0, schedule=dict(warmup=4), type='LogitKD'),
        mgd=dict(loss_weight=500.0, student_tap='backbone[2]', teacher_tap='backbone[2]', type='MGD'),
    ),
    student=dict(
        auxiliary_head=None,
        backbone=dict(base_channels=2, norm_cfg=dict(requires_grad=True, type='BN'), stem_channels=2),
        cfg='mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        data_preprocessor=dict(
            size=(
                64,
                64,
            )
        ),
        decode_head=dict(
            channels=4, dropout_ratio=0.1, in_channels=16, norm_cfg=dict(requires_grad=True, type='BN'), num_classes=7
        ),
        pretrained=None,
    ),
    teacher=dict(
        auxiliary_head=None,
        backbone=dict(base_channels=2, norm_cfg=dict(requires_grad=True, type='BN'), stem_channels=2),
        cfg='mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        checkpoint='teacher.pth',
        data_preprocessor=dict(
            size=(
                64,
                64,
            )
        ),
        decode_head=dict(
            channels=4, dropout_ratio=0.0, in_channels=16, norm_cfg=dict(requires_grad=True, type='BN'), num_classes=7
        ),
        pretrained=None,
    ),
    type='mmdistill_dense.DistillModel',
)
optim_wrapper = dict(optimizer=dict(lr=0.01, momentum=0.9, type='SGD'), type='OptimWrapper')
param_scheduler = [
    dict(begin=0, by_epoch=False, end=10, power=0.9, type='PolyLR'),
]
randomness = dict(seed=5)
train_cfg = dict(max_iters=8, type='IterBasedTrainLoop', val_interval=1000000)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        num_images=8,
        painting=dict(
            size=(
                64,
                64,
            )
        ),
        pipeline=[
            dict(type='mmdistill_dense.LoadShapes'),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
        serialize_data=False,
        type='mmdistill_dense.ShapesSegDataset',
    ),
    num_workers=0,
    sampler=dict(shuffle=True, type='InfiniteSampler'),
)
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        num_images=2,
        painting=dict(
            size=(
                64,
                64,
            )
        ),
        pipeline=[
            dict(type='mmdistill_dense.LoadShapes'),
            dict(type='PackSegInputs'),
        ],
        seed=1,
        serialize_data=False,
        type='mmdistill_dense.ShapesSegDataset',
    ),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'),
)
val_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ],
    type='IoUMetric',
)
work_dir = 'work'
