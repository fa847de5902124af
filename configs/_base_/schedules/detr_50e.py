"""50 epochs of AdamW, mmdet's schedule of Deformable DETR: backbone and sampling points at a tenth, a step after 40.

2 images on each of 8 GPUs, as MasKD's second author; mmdet has the same rate for 32 images.
"""

_base_ = './_epochs.py'
slow = dict(lr_mult=0.1)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys=dict(backbone=slow, sampling_offsets=slow, reference_points=slow)),
)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=50, by_epoch=True, milestones=[40], gamma=0.1)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=50, val_interval=1)
auto_scale_lr = dict(enable=False, base_batch_size=16)
del slow
