default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=4, type='CheckpointHook'),
    distill=dict(type='mmdistill_dense.DistillHook'),
    logger=dict(interval=1, log_metric_by_epoch=False, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'))
default_scope = 'mmseg'
log_level = 'ERROR'
log_processor = dict(by_epoch=False)
model = dict(
    distillers=dict(pcd=dict(clip_max_norm=1.0, settings='auto', type='PCD')),
    student=dict(
        auxiliary_head=None,
        backbone=dict(
            base_channels=2,
            norm_cfg=dict(requires_grad=True, type='BN'),
            stem_channels=2),
        cfg='mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        data_preprocessor=dict(size=(
            64,
            64,
        )),
        decode_head=dict(
            channels=4,
            dropout_ratio=0.1,
            in_channels=16,
            norm_cfg=dict(requires_grad=True, type='BN'),
            num_classes=3),
        pretrained=None),
    teacher=dict(
        auxiliary_head=None,
        backbone=dict(
            base_channels=2,
            norm_cfg=dict(requires_grad=True, type='BN'),
            stem_channels=2),
        cfg='mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        checkpoint='../export/student.pth',
        data_preprocessor=dict(size=(
            64,
            64,
        )),
        decode_head=dict(
            channels=4,
            dropout_ratio=0.0,
            in_channels=16,
            norm_cfg=dict(requires_grad=True, type='BN'),
            num_classes=3),
        pretrained=None),
    type='mmdistill_dense.DistillModel')
optim_wrapper = dict(optimizer=dict(lr=0.02, type='SGD'), type='OptimWrapper')
randomness = dict(seed=5)
train_cfg = dict(max_iters=8, type='IterBasedTrainLoop', val_interval=1000000)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        data_root='pictures',
        img_suffix='.png',
        metainfo=dict(classes=(
            'class_0',
            'class_1',
            'class_2',
        )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
        seg_map_suffix='.png',
        serialize_data=False,
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
            'class_0',
            'class_1',
            'class_2',
        )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        seg_map_suffix='.png',
        serialize_data=False,
        type='BaseSegDataset'),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
work_dir = 'work'
