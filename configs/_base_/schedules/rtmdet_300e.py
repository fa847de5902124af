"""300 epochs of AdamW on 256 images, mmdet's schedule of RTMDet: flat, a cosine to 5 % from half-way, weight average.

Epochs 281 to 300 train without mosaic and mixing (datasets/coco_rtmdet.py) and are each evaluated.
"""

_base_ = './_epochs.py'
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.004, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR', T_max=150, eta_min=2e-4, begin=150, end=300, by_epoch=True, convert_to_iter_based=True
    ),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=10, dynamic_intervals=[(280, 1)])
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=3),
    ema=dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True, priority=49),
)
auto_scale_lr = dict(enable=False, base_batch_size=256)
