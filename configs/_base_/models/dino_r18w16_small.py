"""The small DINO on a ResNet-18 of a quarter of the width, from random weights."""

_base_ = './dino_mobilenetv2_small.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
    ),
    neck=dict(in_channels=[32, 64, 128]),
)
