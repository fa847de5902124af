"""DeepLabV3+ on MobileNetV2 at full width, output stride 16, from ImageNet weights: 2.8 M parameters."""

_base_ = './deeplabv3plus_camvid.py'
model = dict(
    backbone=dict(
        type='MobileNetV2',
        widen_factor=1.0,
        strides=(1, 2, 2, 2, 1, 1, 1),
        dilations=(1, 1, 1, 1, 1, 2, 2),
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='BN', requires_grad=True),
        init_cfg=dict(type='Pretrained', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mobilenet_v2_w1.0_imagenet.pth'),
    ),
    decode_head=dict(in_channels=320, channels=128, c1_in_channels=24, c1_channels=48),
)
