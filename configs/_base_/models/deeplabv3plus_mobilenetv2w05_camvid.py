"""DeepLabV3+ on a MobileNetV2 of half the width, output stride 16, from random weights: 0.7 M parameters."""

_base_ = './deeplabv3plus_mobilenetv2_camvid.py'
model = dict(
    backbone=dict(widen_factor=0.5, init_cfg=None),
    decode_head=dict(in_channels=160, channels=64, c1_in_channels=16, c1_channels=24),
)
