"""50 epochs of AdamW, mmdet's schedule of Deformable DETR: backbone and sampling points at a tenth, a step after 40.

2 images on each of 8 GPUs, as MasKD's second author; mmdet has the same rate for 32 images.
"""

_base_ = './detr_12e.py'
slow = dict(lr_mult=0.1)
optim_wrapper = dict(
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(custom_keys=dict(sampling_offsets=slow, reference_points=slow)),
)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=50, by_epoch=True, milestones=[40], gamma=0.1)]
train_cfg = dict(max_epochs=50)
del slow
