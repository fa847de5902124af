"""6 epochs: students end here far from converged, so that there is something to gain."""

_base_ = './adamw_12e.py'
warmup, cosine = _base_.param_scheduler
param_scheduler = [warmup, dict(cosine, T_max=6, end=6)]
train_cfg = dict(max_epochs=6, val_interval=6)
del warmup, cosine
