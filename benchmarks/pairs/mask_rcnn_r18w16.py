"""Mask R-CNN of 64 RoIs a picture on a ResNet-18 of a quarter of the width, from random weights."""

_base_ = [
    '../../configs/_base_/models/mask_rcnn_r18w16_fpn64.py',
    '../../configs/_base_/datasets/nuclei.py',
    '../../configs/_base_/schedules/adamw_12e.py',
    '../../configs/_base_/runtime_det.py',
]
model = dict(
    train_cfg=dict(rpn_proposal=dict(max_per_img=100), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(max_per_img=100)),
)
