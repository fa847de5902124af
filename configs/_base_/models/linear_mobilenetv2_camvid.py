"""A linear head on a frozen MobileNetV2 of ImageNet at its stride of 32, for CamVid: 4,067 parameters are trained."""

_base_ = './deeplabv3plus_mobilenetv2_camvid.py'
model = dict(
    backbone=dict(
        strides=(1, 2, 2, 2, 1, 2, 1),
        dilations=(1, 1, 1, 1, 1, 1, 1),
        out_indices=(1, 2, 4, 5),
        frozen_stages=6,  # the last layer, which is not used, cannot be frozen
        norm_eval=True,
    ),
    decode_head=dict(
        _delete_=True,
        type='mmdistill_dense.LinearHead',
        in_channels=[24, 32, 96, 160],
        num_classes=11,
        align_corners=False,
        loss_decode=_base_.model.decode_head.loss_decode,
    ),
)
