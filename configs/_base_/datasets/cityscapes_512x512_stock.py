"""Cityscapes with mmseg's own training pipeline and crops of 512x512, as MGD's code trains."""

_base_ = './cityscapes_512x1024_stock.py'
train_pipeline = [
    dict(step, crop_size=(512, 512)) if step['type'] == 'RandomCrop' else step for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
