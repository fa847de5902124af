"""100 epochs for a small machine and a small batch, where LARS moves too little: AdamW, 5 epochs of warm-up, cosine."""

_base_ = './pcd_100e.py'
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=95, eta_min=0, by_epoch=True, begin=5, end=100, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=32)
