auto_scale_lr = dict(base_batch_size=2)
custom_imports = dict(
    allow_failed_imports=False, imports=[
        'mmdistill_dense.engine.launch',
    ])
default_hooks = dict(
    checkpoint=dict(
        by_epoch=False, interval=40, max_keep_ckpts=2, type='CheckpointHook'),
    distill=dict(type='mmdistill_dense.DistillHook'),
    logger=dict(interval=10, log_metric_by_epoch=False, type='LoggerHook'),
    visualization=dict(type='SegVisualizationHook'))
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
experiment_name = 'seed0_control_12136_139908778439888'
launcher = 'none'
load_from = None
log_level = 'INFO'
log_processor = dict(by_epoch=False)
model = dict(
    student=dict(
        cfg='FOLDER/net.py',
        data_preprocessor=dict(size=(
            64,
            64,
        ))),
    teacher=dict(
        cfg='FOLDER/net.py',
        checkpoint='FOLDER/project/work/teacher/iter_40.pth',
        data_preprocessor=dict(size=(
            64,
            64,
        ))),
    type='mmdistill_dense.DistillModel')
model_wrapper_cfg = dict(
    broadcast_buffers=False,
    find_unused_parameters=False,
    type='mmdistill_dense.DistillDDP')
optim_wrapper = dict(
    optimizer=dict(lr=0.05, momentum=0.9, type='SGD'), type='OptimWrapper')
param_scheduler = []
randomness = dict(seed=0)
resume = False
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        data_root='FOLDER/mine',
        img_suffix='.png',
        metainfo=dict(
            classes=(
                'class_0',
                'class_1',
                'class_2',
            ),
            palette=[
                [
                    32,
                    32,
                    32,
                ],
                [
                    32,
                    255,
                    32,
                ],
                [
                    32,
                    32,
                    255,
                ],
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        seg_map_suffix='.png',
        type='mmdistill_dense.SegFolderDataset'),
    num_workers=1,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_cfg = dict(max_iters=40, type='IterBasedTrainLoop', val_interval=40)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        data_root='FOLDER/mine',
        img_suffix='.png',
        metainfo=dict(
            classes=(
                'class_0',
                'class_1',
                'class_2',
            ),
            palette=[
                [
                    32,
                    32,
                    32,
                ],
                [
                    32,
                    255,
                    32,
                ],
                [
                    32,
                    32,
                    255,
                ],
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(
                keep_ratio=True,
                ratio_range=(
                    0.5,
                    2.0,
                ),
                scale=(
                    64,
                    64,
                ),
                type='RandomResize'),
            dict(cat_max_ratio=0.75, crop_size=(
                64,
                64,
            ), type='RandomCrop'),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
        seg_map_suffix='.png',
        type='mmdistill_dense.SegFolderDataset'),
    num_workers=1,
    sampler=dict(shuffle=True, type='InfiniteSampler'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        keep_ratio=True,
        ratio_range=(
            0.5,
            2.0,
        ),
        scale=(
            64,
            64,
        ),
        type='RandomResize'),
    dict(cat_max_ratio=0.75, crop_size=(
        64,
        64,
    ), type='RandomCrop'),
    dict(prob=0.5, type='RandomFlip'),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
tta_model = dict(type='SegTTAModel')
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        data_root='FOLDER/mine',
        img_suffix='.png',
        metainfo=dict(
            classes=(
                'class_0',
                'class_1',
                'class_2',
            ),
            palette=[
                [
                    32,
                    32,
                    32,
                ],
                [
                    32,
                    255,
                    32,
                ],
                [
                    32,
                    32,
                    255,
                ],
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        seg_map_suffix='.png',
        type='mmdistill_dense.SegFolderDataset'),
    num_workers=1,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    name='visualizer',
    type='SegLocalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ])
work_dir = 'FOLDER/project/work/runs/control/seed0'
