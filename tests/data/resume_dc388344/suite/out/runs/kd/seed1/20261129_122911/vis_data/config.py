custom_imports = dict(
    allow_failed_imports=False, imports=[
        'mmdistill_dense.engine.launch',
    ])
default_hooks = dict(
    checkpoint=dict(
        by_epoch=False,
        interval=450,
        max_keep_ckpts=2,
        save_best=None,
        type='CheckpointHook'),
    distill=dict(type='mmdistill_dense.DistillHook'),
    logger=dict(interval=50, log_metric_by_epoch=False, type='LoggerHook'),
    visualization=dict(type='SegVisualizationHook'))
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
experiment_name = 'seed1_kd_8021_140366179879376'
launcher = 'none'
load_from = None
log_level = 'INFO'
log_processor = dict(by_epoch=False)
model = dict(
    distillers=dict(kd=dict(type='LogitKD')),
    student=dict(cfg='mmdistill_dense::_base_/models/toy_student.py'),
    teacher=dict(
        cfg='mmdistill_dense::_base_/models/toy_teacher.py',
        checkpoint=
        'FOLDER/suite/out/teacher/weights_iter_60.pth'),
    type='mmdistill_dense.DistillModel')
model_wrapper_cfg = dict(
    broadcast_buffers=False,
    find_unused_parameters=False,
    type='mmdistill_dense.DistillDDP')
optim_wrapper = dict(
    optimizer=dict(lr=0.006, type='AdamW', weight_decay=0.01),
    type='OptimWrapper')
param_scheduler = [
    dict(begin=0, by_epoch=False, end=10, start_factor=0.03, type='LinearLR'),
    dict(
        begin=10, by_epoch=False, end=40, eta_min=0, power=0.9, type='PolyLR'),
]
randomness = dict(seed=1)
resume = False
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=8,
    dataset=dict(
        num_images=8,
        painting=dict(
            contrast=110.0, objects=(
                3,
                6,
            ), radius=(
                18.0,
                36.0,
            ), tint=0.6),
        pipeline=[
            dict(type='mmdistill_dense.LoadShapes'),
            dict(type='PackSegInputs'),
        ],
        seed=2,
        type='mmdistill_dense.ShapesSegDataset'),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
test_pipeline = [
    dict(type='mmdistill_dense.LoadShapes'),
    dict(type='PackSegInputs'),
]
train_cfg = dict(max_iters=40, type='IterBasedTrainLoop', val_interval=20)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        num_images=8000,
        painting=dict(
            contrast=110.0,
            objects=(
                1,
                3,
            ),
            radius=(
                18.0,
                36.0,
            ),
            size=(
                64,
                80,
            ),
            tint=0.6),
        pipeline=[
            dict(type='mmdistill_dense.LoadShapes'),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PackSegInputs'),
        ],
        seed=0,
        type='mmdistill_dense.ShapesSegDataset'),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=True, type='InfiniteSampler'))
train_pipeline = [
    dict(type='mmdistill_dense.LoadShapes'),
    dict(prob=0.5, type='RandomFlip'),
    dict(type='PackSegInputs'),
]
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='mmdistill_dense.LoadShapes'),
    dict(
        transforms=[
            [
                dict(prob=0.0, type='RandomFlip'),
                dict(prob=1.0, type='RandomFlip'),
            ],
            [
                dict(type='PackSegInputs'),
            ],
        ],
        type='TestTimeAug'),
]
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        num_images=8,
        painting=dict(
            contrast=110.0, objects=(
                3,
                6,
            ), radius=(
                18.0,
                36.0,
            ), tint=0.6),
        pipeline=[
            dict(type='mmdistill_dense.LoadShapes'),
            dict(type='PackSegInputs'),
        ],
        seed=1,
        type='mmdistill_dense.ShapesSegDataset'),
    num_workers=0,
    persistent_workers=False,
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
work_dir = 'FOLDER/suite/out/runs/kd/seed1'
