"""PSPNet on a MobileNetV2 of half the width, output stride 16, from weights trained on PASCAL VOC's masks."""

_base_ = './fcn_mobilenetv2w05_voc.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='PSPHead',
        in_channels=160,
        in_index=3,
        channels=48,
        pool_scales=(1, 2, 3, 6),
        num_classes=11,
        norm_cfg=dict(type='BN', requires_grad=True),
    ),
)
