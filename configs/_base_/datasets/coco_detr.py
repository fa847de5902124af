"""COCO boxes with the short side drawn from 480 to 800, half of the images cropped before, as mmdet's DINO trains."""

_base_ = './coco_detection.py'
sides = dict(type='RandomChoiceResize', scales=[(side, 1333) for side in range(480, 801, 32)], keep_ratio=True)
crop = [
    dict(type='RandomChoiceResize', scales=[(400, 4200), (500, 4200), (600, 4200)], keep_ratio=True),
    dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
]
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[[sides], [*crop, sides]]),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline))
del sides, crop
