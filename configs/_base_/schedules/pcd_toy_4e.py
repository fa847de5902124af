"""4 short epochs on generated shapes: AdamW, half an epoch of warm-up, then cosine."""

_base_ = './pcd_100e.py'
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=3e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.03, by_epoch=False, begin=0, end=15),
    dict(type='CosineAnnealingLR', T_max=4, eta_min=0, by_epoch=True, begin=0, end=4, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=4)
default_hooks = dict(logger=dict(interval=15), checkpoint=dict(interval=2))
auto_scale_lr = dict(base_batch_size=32)
