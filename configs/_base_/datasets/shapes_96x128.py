"""Generated shapes, no files: 7 classes, 96x128. Training, validation and test differ in their seed."""

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
        # the labels are those of the first entry, so that one is not flipped
        transforms=[
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='mmdistill_dense.ShapesSegDataset', num_images=8000, seed=0, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmdistill_dense.ShapesSegDataset', num_images=200, seed=1, pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmdistill_dense.ShapesSegDataset', num_images=200, seed=2, pipeline=test_pipeline),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
