"""PSPNet on a ResNet-18 of a quarter of the width, output stride 16, from random weights: 0.8 M parameters."""

_base_ = './deeplabv3plus_r18w16_camvid.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='PSPHead',
        in_channels=128,
        in_index=3,
        channels=64,
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=_base_.model.decode_head.loss_decode,
    ),
)
