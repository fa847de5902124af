# config_hash: d62ca692be19b0f8
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/toy_student.py'),
    teacher=dict(
        cfg='mmdistill_dense::_base_/models/toy_teacher.py',
        checkpoint='work_dirs/demo/teacher/iter_700.pth',
    ),
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
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=450, save_best=None, max_keep_ckpts=2),
    visualization=dict(type='SegVisualizationHook'),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.006, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.03, begin=0, end=10, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=10, end=40, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40, val_interval=20)
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
randomness = dict(seed=1)
load_from = None
resume = False
work_dir = 'FOLDER/suite/out/runs/control/seed1'
