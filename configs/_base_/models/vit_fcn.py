"""The frozen ViT-S/14 with two 3x3 convolutions on its last block."""

_base_ = './vit_linear.py'
model = dict(
    backbone=dict(out_blocks=(-1,)),
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=384,
        in_index=0,
        channels=256,
        num_convs=2,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
)
