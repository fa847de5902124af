"""CamVid, 11 classes, 367 / 101 / 233 images of 480x360. Settings are picked on val, results are reported on test."""

_base_ = './_paper.py'
data_root = '{{$MMDISTILL_DATA:data}}/camvid'
train_pipeline = [
    dict(step, crop_size=(360, 360)) if step['type'] == 'RandomCrop' else step for step in _base_.train_pipeline
]
train_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.CamVidDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.CamVidDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
    )
)
test_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.CamVidDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/test', seg_map_path='annotations/test'),
    )
)
del data_root  # a key that --cfg-options could change without effect
