"""Cityscapes with mmseg's own pipeline and crops of 1024x1024: 1 image a GPU on 8, as the SegFormer models train."""

_base_ = './cityscapes_512x1024_stock.py'
train_pipeline = [
    dict(step, crop_size=(1024, 1024)) if step['type'] == 'RandomCrop' else step for step in _base_.train_pipeline
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
