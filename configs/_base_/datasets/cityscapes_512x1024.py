"""Cityscapes, 19 classes: leftImg8bit/ and gtFine/ with labelTrainIds (mmseg's converter makes them)."""

_base_ = './_paper.py'
data_root = '{{$MMDISTILL_DATA:data}}/cityscapes'
train_pipeline = [
    dict(step, crop_size=(512, 1024)) if step['type'] == 'RandomCrop' else step for step in _base_.train_pipeline
]
train_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.CityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.CityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
    )
)
test_dataloader = val_dataloader
del data_root  # a key that --cfg-options could change without effect
