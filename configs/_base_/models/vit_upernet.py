"""The frozen ViT-S/14 with UPerNet of half mmseg's width on a pyramid of four blocks."""

_base_ = './vit_linear.py'
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(out_blocks=(2, 5, 8, 11)),
    neck=dict(type='Feature2Pyramid', embed_dim=384, rescales=[4, 2, 1, 0.5], norm_cfg=norm_cfg),
    decode_head=dict(
        _delete_=True,
        type='UPerHead',
        in_channels=[384, 384, 384, 384],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
)
del norm_cfg
