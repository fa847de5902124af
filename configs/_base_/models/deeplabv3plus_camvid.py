"""What our two small CamVid networks share: DeepLabV3+ at output stride 16, 11 classes, loss weights, normalisation."""

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],  # the normalisation of the MobileNetV2 weights
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(180, 240),
    ),
    decode_head=dict(
        type='DepthwiseSeparableASPPHead',
        in_index=3,
        dilations=(1, 6, 12, 18),
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss',
            # 1 / ln(1.05 + share of the class among the labelled training pixels): else thin classes stay at 0
            class_weight=[4.92, 3.90, 17.10, 3.11, 10.83, 7.10, 16.57, 16.69, 9.49, 18.15, 19.35],
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
