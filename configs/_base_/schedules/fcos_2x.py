"""The schedule of the FCOS pair of MasKD: as mmdet's, but the warm-up rises linearly from a third."""

_base_ = './dense_clip_2x.py'
optim_wrapper = dict(paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0))
warmup, steps = _base_.param_scheduler
param_scheduler = [dict(warmup, start_factor=1 / 3), steps]
del warmup, steps
