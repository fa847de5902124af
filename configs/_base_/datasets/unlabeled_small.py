"""The training images of the four small data sets, 967 without their labels: two views of 128x128, batch 32.

For small machines. CamVid's share is 367, so nothing of its val and test images is seen.
"""

_base_ = './imagenet_unlabeled.py'
views = [
    [dict(step, size=128) if 'size' in step else step for step in view] for view in _base_.train_pipeline[1]['views']
]
train_pipeline = [dict(step, views=views) if 'views' in step else step for step in _base_.train_pipeline]
train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    drop_last=True,
    dataset=dict(
        data_root='{{$MMDISTILL_DATA:data}}/',
        data_prefix=['camvid/images/train', 'coco_mini/train2017', 'bccd/images/train', 'nuclei/images/train'],
        check=True,
        pipeline=train_pipeline,
    ),
)
del views
