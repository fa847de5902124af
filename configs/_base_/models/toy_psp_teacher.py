"""A second teacher on generated data: width 16 with the head of PSPNet."""

_base_ = './toy.py'
model = dict(
    backbone=dict(base_channels=16),
    decode_head=dict(
        _delete_=True,
        type='PSPHead',
        in_channels=128,
        in_index=3,
        channels=48,
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.0,
        num_classes=7,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
)
