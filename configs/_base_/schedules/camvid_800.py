"""800 iterations for a small machine: AdamW, 50 steps of warm-up, then poly; one evaluation at the end, on val."""

_base_ = './_iterations.py'
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=50, end=801, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=800, val_interval=800)
default_hooks = dict(checkpoint=dict(interval=800, save_best=None))
