"""The training images of the four small data sets, 967 without their labels: one view of 160x160, batch 32."""

_base_ = './imagenet_unlabeled.py'
view = [
    dict(step, size=160, scale=(0.14, 1.0)) if 'size' in step else step
    for step in _base_.train_pipeline[1]['views'][0][:-1]
]
train_pipeline = [dict(step, views=[view]) if 'views' in step else step for step in _base_.train_pipeline]
train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    dataset=dict(
        data_root='{{$MMDISTILL_DATA:data}}/',
        data_prefix=['camvid/images/train', 'coco_mini/train2017', 'bccd/images/train', 'nuclei/images/train'],
        check=True,
        pipeline=train_pipeline,
    ),
)
del view
