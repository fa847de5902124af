# config_hash: 1d53281eb3f52e98
# networks: 6b721fee5e4b7c4a
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
    num_workers=1,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmdistill_dense.SegFolderDataset',
        data_root='FOLDER/mine',
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
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdistill_dense.SegFolderDataset',
        data_root='FOLDER/mine',
        metainfo=dict(classes=('class_0', 'class_1', 'class_2'), palette=[[32, 32, 32], [32, 255, 32], [32, 32, 255]]),
        img_suffix='.png',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdistill_dense.SegFolderDataset',
        data_root='FOLDER/mine',
        metainfo=dict(classes=('class_0', 'class_1', 'class_2'), palette=[[32, 32, 32], [32, 255, 32], [32, 32, 255]]),
        img_suffix='.png',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='FOLDER/net.py', data_preprocessor=dict(size=(64, 64))),
    teacher=dict(
        cfg='FOLDER/net.py',
        checkpoint='FOLDER/project/work/teacher/iter_40.pth',
        data_preprocessor=dict(size=(64, 64)),
    ),
)
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
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
param_scheduler = []
auto_scale_lr = dict(base_batch_size=2)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40, val_interval=40)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    distill=dict(type='mmdistill_dense.DistillHook'),
    logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=40, max_keep_ckpts=2),
    visualization=dict(type='SegVisualizationHook'),
)
work_dir = 'FOLDER/project/work/teacher'
