"""PCD beside logit distillation, on generated data."""

_base_ = './pcd_seg.py'
distillers = dict(kd=dict(type='LogitKD'), pcd=dict(num_pixels=None))
