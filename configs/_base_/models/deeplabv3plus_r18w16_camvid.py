"""DeepLabV3+ on a ResNet-18 of a quarter of the width, output stride 16, from random weights: 0.9 M parameters."""

_base_ = './deeplabv3plus_camvid.py'
model = dict(
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        style='pytorch',
    ),
    decode_head=dict(in_channels=128, channels=64, c1_in_channels=16, c1_channels=24),
)
