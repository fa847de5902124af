# config_hash: 4433b826379f014c
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(64, 80),
    ),
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        stem_channels=16,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        base_channels=16,
    ),
    decode_head=dict(
        type='ASPPHead',
        in_index=3,
        dilations=(1, 2, 4),
        dropout_ratio=0.0,
        num_classes=7,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
        in_channels=128,
        channels=48,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
train_pipeline = [
    dict(type='mmdistill_dense.LoadShapes'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='mmdistill_dense.LoadShapes'), dict(type='PackSegInputs')]
tta_pipeline = [
    dict(type='mmdistill_dense.LoadShapes'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmdistill_dense.ShapesSegDataset',
        num_images=8000,
        seed=0,
        painting=dict(objects=(1, 3), radius=(18.0, 36.0), contrast=110.0, tint=0.6, size=(64, 80)),
        pipeline=[
            dict(type='mmdistill_dense.LoadShapes'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdistill_dense.ShapesSegDataset',
        num_images=8,
        seed=1,
        painting=dict(objects=(3, 6), radius=(18.0, 36.0), contrast=110.0, tint=0.6),
        pipeline=[dict(type='mmdistill_dense.LoadShapes'), dict(type='PackSegInputs')],
    ),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdistill_dense.ShapesSegDataset',
        num_images=8,
        seed=2,
        painting=dict(objects=(3, 6), radius=(18.0, 36.0), contrast=110.0, tint=0.6),
        pipeline=[dict(type='mmdistill_dense.LoadShapes'), dict(type='PackSegInputs')],
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    distill=dict(type='mmdistill_dense.DistillHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=700, save_best=None, max_keep_ckpts=2),
    visualization=dict(type='SegVisualizationHook'),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.006, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.03, begin=0, end=30, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=30, end=701, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=60, val_interval=60)
default_scope = 'mmseg'
custom_imports = dict(imports=['mmdistill_dense.engine.launch'], allow_failed_imports=False)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
model_wrapper_cfg = dict(type='mmdistill_dense.DistillDDP', broadcast_buffers=False, find_unused_parameters=False)
log_processor = dict(by_epoch=False)
log_level = 'INFO'
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
tta_model = dict(type='SegTTAModel')
randomness = dict(seed=0)
load_from = None
resume = False
work_dir = 'FOLDER/suite/out/teacher'
