"""5 epochs of toy_det_3e.py, for the teacher."""

_base_ = './toy_det_3e.py'
warmup, cosine = _base_.param_scheduler
param_scheduler = [warmup, dict(cosine, T_max=5, end=5)]
train_cfg = dict(max_epochs=5, val_interval=5)
del warmup, cosine
