"""Mask R-CNN on half a MobileNetV2, from random weights."""

_base_ = [
    '../../configs/_base_/models/mask_rcnn_mobilenetv2_fpn64.py',
    '../../configs/_base_/datasets/nuclei.py',
    '../../configs/_base_/schedules/adamw_12e.py',
    '../../configs/_base_/runtime_det.py',
]
model = dict(
    backbone=dict(widen_factor=0.5, init_cfg=None),
    neck=dict(in_channels=[16, 16, 48, 160]),
)
