"""Generated shapes with boxes, no files: 6 classes, 128x160. Training, validation and test differ in their seed."""

painting = dict(size=(128, 160), objects=(3, 6), radius=(12.0, 34.0), contrast=120.0, period=(8.0, 10.0))
train_pipeline = [
    dict(type='mmdistill_dense.LoadShapesDet'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'flip', 'flip_direction')),
]
test_pipeline = [
    dict(type='mmdistill_dense.LoadShapesDet'),
    dict(type='Resize', scale_factor=1.0),  # states the scale, which predictions are divided by
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')),
]
tta_pipeline = [
    *test_pipeline[:2],
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='PackDetInputs', meta_keys=(*test_pipeline[2]['meta_keys'], 'flip', 'flip_direction'))],
        ],
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmdistill_dense.ShapesDetDataset', num_images=1600, seed=0, painting=painting, pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdistill_dense.ShapesDetDataset', num_images=300, seed=1, painting=painting, pipeline=test_pipeline
    ),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdistill_dense.ShapesDetDataset', num_images=300, seed=2, painting=painting, pipeline=test_pipeline
    ),
)
val_evaluator = dict(type='CocoMetric', metric='bbox')
test_evaluator = val_evaluator
del painting
