"""COCO with masks in training and boxes in the metric: for a box detector whose teacher learns tokens on masks."""

_base_ = './coco_detection.py'
load = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_pipeline = [load if step['type'] == 'LoadAnnotations' else step for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
del load
