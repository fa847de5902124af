"""COCO boxes at 640x640 with mosaic and mixing, 32 images a GPU on 8, as mmdet's RTMDet-tiny trains.

Training takes 300 epochs, the last 20 without mosaic and mixing. A cache of images is kept in each worker. Our
workers end with the epoch, so each epoch fills the cache again; mmdet's workers keep theirs for the whole run.
"""

_base_ = './coco_detection.py'
crop = [
    dict(type='RandomCrop', crop_size=(640, 640)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114))),
]
load, pack = _base_.train_pipeline[:2], _base_.train_pipeline[-1]
train_pipeline = [
    *load,
    dict(type='CachedMosaic', img_scale=(640, 640), pad_val=114.0, max_cached_images=20, random_pop=False),
    dict(type='RandomResize', scale=(1280, 1280), ratio_range=(0.5, 2.0), keep_ratio=True),
    *crop,
    dict(
        type='CachedMixUp',
        img_scale=(640, 640),
        ratio_range=(1.0, 1.0),
        max_cached_images=10,
        random_pop=False,
        pad_val=(114, 114, 114),
        prob=0.5,
    ),
    pack,
]
plain = [*load, dict(type='RandomResize', scale=(640, 640), ratio_range=(0.5, 2.0), keep_ratio=True), *crop, pack]
custom_hooks = [dict(type='PipelineSwitchHook', switch_epoch=280, switch_pipeline=plain)]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=(640, 640), keep_ratio=True),
    dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114))),
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(
    batch_size=32, num_workers=10, pin_memory=True, batch_sampler=None, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=5, num_workers=10, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(proposal_nums=(100, 1, 10))
test_evaluator = val_evaluator
del crop, load, pack, plain
