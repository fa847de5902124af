"""A folder of your own images, one view of 224x224 for student and teacher: crops of 0.14 of the area or more, no blur.

The view of lightly-train's distillation, whose blur of at most 0.1 pixels is left out. It mixes the pictures of a batch
as well: `mixup=True` of the student's MultiViewPreprocessor.
"""

_base_ = './imagenet_unlabeled.py'
view = [dict(step, scale=(0.14, 1.0)) if 'size' in step else step for step in _base_.train_pipeline[1]['views'][0][:-1]]
train_pipeline = [dict(step, views=[view]) if 'views' in step else step for step in _base_.train_pipeline]
train_dataloader = dict(
    drop_last=False,  # a folder may hold fewer pictures than one batch
    dataset=dict(data_root='{{$MMDISTILL_DATA:data}}/unlabeled', data_prefix='', check=True, pipeline=train_pipeline),
)
del view
