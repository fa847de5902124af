"""BiSeNetV2 of half the width, from random weights."""

_base_ = __import__('mmdistill_dense').base('mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py')
model = dict(
    backbone=dict(detail_channels=(32, 32, 64), semantic_channels=(8, 16, 32, 64), bga_channels=64),
    decode_head=dict(in_channels=64, channels=128),
    auxiliary_head=[
        dict(head, in_channels=width, channels=32)
        for head, width in zip(_base_.model.auxiliary_head, (8, 16, 32, 64), strict=True)
    ],
)
