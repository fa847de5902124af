"""GFL on MobileNetV2 at full width, from ImageNet weights."""

_base_ = './gfl_fpn64.py'
model = dict(
    backbone=dict(
        type='MobileNetV2',
        widen_factor=1.0,
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='BN', requires_grad=True),
        # mmdet's names of the layers, as for the RetinaNet on it
        init_cfg=dict(
            type='Pretrained', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mobilenet_v2_w1.0_imagenet_mmdet.pth'
        ),
    ),
    neck=dict(in_channels=[24, 32, 96, 320]),
)
