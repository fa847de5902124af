"""ADE20K, 150 classes: label 0 is ignored, 20210 training and 2000 validation images."""

_base_ = './_paper.py'
data_root = '{{$MMDISTILL_DATA:data}}/ade/ADEChallengeData2016'
load = dict(type='LoadAnnotations', reduce_zero_label=True)
train_pipeline = [load if step['type'] == 'LoadAnnotations' else step for step in _base_.train_pipeline]
test_pipeline = [load if step['type'] == 'LoadAnnotations' else step for step in _base_.test_pipeline]
train_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
del load, data_root  # data_root: a key that --cfg-options could change without effect
