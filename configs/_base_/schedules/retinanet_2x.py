"""The schedule of the RetinaNet pairs of MasKD: twice mmdet's learning rate for RetinaNet, 1000 steps of warm-up."""

_base_ = './sgd_2x.py'
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
warmup, steps = _base_.param_scheduler
param_scheduler = [dict(warmup, end=1000), steps]
del warmup, steps
