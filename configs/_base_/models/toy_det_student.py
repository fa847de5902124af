"""The detection student on generated data: width 8 behind a stem as wide as the teacher's (see toy_student.py)."""

_base_ = './toy_det.py'
model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32),
)
