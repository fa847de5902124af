"""The small Mask R-CNN on a ResNet-18 of a quarter of the width, from random weights."""

_base_ = './mask_rcnn_mobilenetv2_fpn64.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
    ),
    neck=dict(in_channels=[16, 32, 64, 128]),
)
