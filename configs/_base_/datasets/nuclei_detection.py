"""Nuclei, boxes of one class, 267 / 67 images of 256x256 enlarged to 320: batch 4. Val is the test set."""

_base_ = './bccd.py'
data_root = '{{$MMDISTILL_DATA:data}}/nuclei'
metainfo = dict(classes=('nucleus',), palette=[(60, 180, 75)])
large = dict(type='Resize', scale=(320, 320), keep_ratio=True)
train_pipeline = [large if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
test_pipeline = [large if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline))
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
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val.json')
test_evaluator = val_evaluator
del data_root, metainfo, large
