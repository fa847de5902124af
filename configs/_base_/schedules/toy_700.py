"""700 short iterations, for the teacher."""

_base_ = './toy_450.py'
warmup, poly = _base_.param_scheduler
param_scheduler = [warmup, dict(poly, end=701)]
train_cfg = dict(max_iters=700, val_interval=700)
default_hooks = dict(checkpoint=dict(interval=700))
del warmup, poly
