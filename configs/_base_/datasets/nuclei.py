"""Nuclei with instance masks, both boxes and masks in the metric."""

_base_ = './coco_detection.py'
data_root = '{{$MMDISTILL_DATA:data}}/nuclei'
metainfo = dict(classes=('nucleus',), palette=[(60, 180, 75)])
large = dict(type='Resize', scale=(320, 320), keep_ratio=True)
flip = dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])
load = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
swaps = dict(Resize=large, RandomFlip=flip, LoadAnnotations=load)
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
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val.json', metric=['bbox', 'segm'])
test_evaluator = val_evaluator
del data_root, metainfo, large, flip, swaps, load
