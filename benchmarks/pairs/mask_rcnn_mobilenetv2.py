"""Mask R-CNN of 64 RoIs a picture on MobileNetV2 of ImageNet weights: a teacher."""

_base_ = [
    '../../configs/_base_/models/mask_rcnn_mobilenetv2_fpn64.py',
    '../../configs/_base_/datasets/nuclei.py',
    '../../configs/_base_/schedules/adamw_12e.py',
    '../../configs/_base_/runtime_det.py',
]
model = dict(
    train_cfg=dict(rpn_proposal=dict(max_per_img=100), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(max_per_img=100)),
)
