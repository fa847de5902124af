"""Generated shapes, no files: 7 classes. Training, validation and test differ in their seed.

Colours tell the shape of most objects and are learned in a few steps; the texture takes longer. Training pictures are
64x80, for speed: as crops, they show 1 to 3 objects. Validation and test pictures are 96x128.
"""

painting = dict(objects=(3, 6), radius=(18.0, 36.0), contrast=110.0, tint=0.6)
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
    dataset=dict(
        type='mmdistill_dense.ShapesSegDataset',
        num_images=8000,
        seed=0,
        painting=dict(painting, size=(64, 80), objects=(1, 3)),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdistill_dense.ShapesSegDataset', num_images=200, seed=1, painting=painting, pipeline=test_pipeline
    ),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdistill_dense.ShapesSegDataset', num_images=200, seed=2, painting=painting, pipeline=test_pipeline
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
del painting
