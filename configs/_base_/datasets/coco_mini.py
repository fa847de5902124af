"""128 / 100 images of COCO 2017 in its own layout, 80 classes, at small size: batch 4. Too few to learn from."""

_base_ = './coco_detection.py'
data_root = '{{$MMDISTILL_DATA:data}}/coco_mini'
small = dict(type='Resize', scale=(400, 256), keep_ratio=True)
train_pipeline = [small if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
test_pipeline = [small if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
del data_root, small
