# The network of student_kd.pth, written by mmdistill_dense.
# It runs without mmdistill_dense.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmseg.BaseSegDataset',
        data_root='mine',
        metainfo=dict(classes=('class_0', 'class_1', 'class_2'), palette=[[32, 32, 32], [32, 255, 32], [32, 32, 255]]),
        img_suffix='.png',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomResize', scale=(64, 64), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
    ),
    persistent_workers=False,
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmseg.BaseSegDataset',
        data_root='mine',
        metainfo=dict(classes=('class_0', 'class_1', 'class_2'), palette=[[32, 32, 32], [32, 255, 32], [32, 32, 255]]),
        img_suffix='.png',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    ),
    persistent_workers=False,
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmseg.BaseSegDataset',
        data_root='mine',
        metainfo=dict(classes=('class_0', 'class_1', 'class_2'), palette=[[32, 32, 32], [32, 255, 32], [32, 32, 255]]),
        img_suffix='.png',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    ),
    persistent_workers=False,
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
model = dict(
    auxiliary_head=None,
    backbone=dict(
        base_channels=2,
        contract_dilation=True,
        depth=18,
        dilations=(1, 1, 2, 4),
        norm_cfg=dict(requires_grad=True, type='BN'),
        norm_eval=False,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        stem_channels=2,
        strides=(1, 2, 1, 1),
        style='pytorch',
        type='ResNetV1c',
    ),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[123.675, 116.28, 103.53],
        pad_val=0,
        seg_pad_val=255,
        size=(64, 64),
        std=[58.395, 57.12, 57.375],
        type='SegDataPreProcessor',
    ),
    decode_head=dict(
        align_corners=False,
        channels=4,
        concat_input=True,
        dropout_ratio=0.0,
        in_channels=16,
        in_index=3,
        loss_decode=dict(loss_weight=1.0, type='CrossEntropyLoss', use_sigmoid=False),
        norm_cfg=dict(requires_grad=True, type='BN'),
        num_classes=3,
        num_convs=2,
        type='FCNHead',
    ),
    pretrained=None,
    test_cfg=dict(mode='whole'),
    train_cfg=dict(),
    type='EncoderDecoder',
)
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
log_processor = dict(by_epoch=False)
log_level = 'INFO'
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
tta_model = dict(type='SegTTAModel')
randomness = dict(seed=0)
load_from = None
resume = False
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=0.02, type='SGD'))
param_scheduler = []
auto_scale_lr = dict(base_batch_size=2)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40, val_interval=40)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=20, max_keep_ckpts=2),
    visualization=dict(type='SegVisualizationHook'),
)
work_dir = 'FOLDER/project/work/runs/kd/seed0'
