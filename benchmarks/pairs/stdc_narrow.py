"""STDC1 of a quarter of the width."""

_base_ = __import__('mmdistill_dense').base('mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py')
model = dict(
    backbone=dict(
        backbone_cfg=dict(channels=(8, 16, 64, 128, 256)),
        last_in_channels=(256, 128),
        out_channels=32,
        ffm_cfg=dict(in_channels=96, out_channels=64),
    ),
    decode_head=dict(in_channels=64, channels=64),
    auxiliary_head=[
        dict(head, in_channels=width) for head, width in zip(_base_.model.auxiliary_head, (32, 32, 64), strict=True)
    ],
)
