"""The detection teacher on generated data: width 16."""

_base_ = './toy_det.py'
model = dict(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=48),
    bbox_head=dict(in_channels=48, feat_channels=48),
)
