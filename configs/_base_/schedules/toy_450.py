"""450 short iterations: AdamW, 30 steps of warm-up, then poly; one evaluation at the end."""

_base_ = './_iterations.py'
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=6e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.03, begin=0, end=30, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=30, end=451, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=450, val_interval=450)
default_hooks = dict(checkpoint=dict(interval=450, save_best=None))
