"""BCCD blood cells, boxes of 3 classes, 205 / 87 / 72 images of 640x480, at half size: batch 4.

Settings are picked on val, results are reported on test.
"""

_base_ = './coco_detection.py'
data_root = '{{$MMDISTILL_DATA:data}}/bccd'
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'), palette=[(220, 20, 60), (90, 60, 200), (230, 160, 0)])
half = dict(type='Resize', scale=(320, 240), keep_ratio=True)
flip = dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])
swaps = dict(Resize=half, RandomFlip=flip)
train_pipeline = [swaps.get(step['type'], step) for step in _base_.train_pipeline]
test_pipeline = [swaps.get(step['type'], step) for step in _base_.test_pipeline]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_test.json',
        data_prefix=dict(img='images/test/'),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val.json')
test_evaluator = dict(ann_file=f'{data_root}/annotations/instances_test.json')
del data_root, metainfo, half, flip, swaps
