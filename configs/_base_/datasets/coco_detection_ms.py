"""COCO boxes with the short side drawn from 640 and 800, as the FCOS models train."""

_base_ = './coco_detection.py'
resize = dict(type='RandomChoiceResize', scales=[(1333, 640), (1333, 800)], keep_ratio=True)
train_pipeline = [resize if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
del resize
