"""A frozen DINOv2 ViT-S/14 with a linear head on its last four blocks: it trains 3,072 parameters and 1,537 a class."""

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(
        type='mmdistill_dense.VisionTransformer',
        model='dinov2_vits14',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dinov2_vits14_pretrain.pth',
        out_blocks=(-4, -3, -2, -1),
        frozen=True,
    ),
    decode_head=dict(
        type='mmdistill_dense.LinearHead',
        in_channels=[384, 384, 384, 384],
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
