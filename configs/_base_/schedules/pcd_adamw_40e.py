"""40 epochs for a small machine and a small batch, as in our benchmarks: AdamW, 5 epochs of warm-up, cosine."""

_base_ = './pcd_adamw_100e.py'
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=35, eta_min=0, by_epoch=True, begin=5, end=40, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=40)
