"""PCD with pooled keys beside logit distillation, on generated data."""

# fits: seg, pair toy
_base_ = './pcd_seg_pooled.py'
distillers = dict(kd=dict(type='LogitKD'), pcd=dict(num_pixels=None))
