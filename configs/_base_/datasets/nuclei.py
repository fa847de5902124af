"""Nuclei with instance masks, both boxes and masks in the metric."""

_base_ = './nuclei_detection.py'
load = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_pipeline = [load if step['type'] == 'LoadAnnotations' else step for step in _base_.train_pipeline]
test_pipeline = [load if step['type'] == 'LoadAnnotations' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
del load
