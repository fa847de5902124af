"""700 short iterations, for the teacher."""

_base_ = './_iterations.py'
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=6e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.03, begin=0, end=30, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=30, end=701, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=700, val_interval=700)
default_hooks = dict(checkpoint=dict(interval=700, save_best=None))
