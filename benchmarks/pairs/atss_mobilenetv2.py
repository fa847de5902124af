"""The teacher of atss: its head on MobileNetV2 of ImageNet weights."""

_base_ = './atss_r18w16.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        widen_factor=1.0,
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='BN', requires_grad=True),
        init_cfg=dict(
            type='Pretrained', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mobilenet_v2_w1.0_imagenet_mmdet.pth'
        ),
    ),
    neck=dict(in_channels=[24, 32, 96, 320]),
)
