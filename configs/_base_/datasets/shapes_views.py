"""Generated shapes without labels, no files: two views of 64x64, batch 32."""

_base_ = './imagenet_unlabeled.py'
views = [
    [dict(step, size=64, scale=(0.3, 1.0)) if 'size' in step else step for step in view]
    for view in _base_.train_pipeline[1]['views']
]
train_pipeline = [
    dict(type='mmdistill_dense.LoadShapes'),
    dict(type='mmdistill_dense.MultiView', views=views),
    dict(type='mmdistill_dense.PackViews'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    dataset=dict(
        _delete_=True, type='mmdistill_dense.ShapesSegDataset', num_images=960, seed=0, pipeline=train_pipeline
    ),
)
del views
