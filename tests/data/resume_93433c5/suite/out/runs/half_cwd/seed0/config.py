custom_imports = dict(
    allow_failed_imports=False, imports=[
        'mmdistill_dense.engine.launch',
    ])
default_hooks = dict(
    checkpoint=dict(
        by_epoch=False,
        interval=80,
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
load_from = None
log_level = 'INFO'
log_processor = dict(by_epoch=False)
model = dict(
    distillers=dict(cwd=dict(loss_weight=1.5, type='CWD')),
    student=dict(cfg='mmdistill_dense::_base_/models/toy_student.py'),
    teacher=dict(
        cfg='mmdistill_dense::_base_/models/toy_teacher.py',
        checkpoint=
        'out/teacher/iter_80.pth'
    ),
    type='mmdistill_dense.DistillModel')
model_wrapper_cfg = dict(
    broadcast_buffers=False,
    find_unused_parameters=False,
    type='mmdistill_dense.DistillDDP')
optim_wrapper = dict(
    optimizer=dict(lr=0.006, type='AdamW', weight_decay=0.01),
    type='OptimWrapper')
param_scheduler = [
    dict(begin=0, by_epoch=False, end=2, start_factor=0.03, type='LinearLR'),
    dict(
        begin=2, by_epoch=False, end=451, eta_min=0, power=0.9, type='PolyLR'),
]
randomness = dict(seed=0)
resume = False
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=8,
    dataset=dict(
        num_images=6,
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
train_cfg = dict(max_iters=80, type='IterBasedTrainLoop', val_interval=80)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        num_images=8000,
        painting=dict(objects=(
            2,
            5,
        ), size=(
            64,
            80,
        )),
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
        num_images=6,
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
work_dir = 'out/runs/half_cwd/seed0'
