"""Fast-SCNN of half the width, from random weights."""

_base_ = __import__('mmdistill_dense').base('mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py')
model = dict(
    backbone=dict(
        downsample_dw_channels=(16, 24),
        global_in_channels=32,
        global_block_channels=(32, 48, 64),
        global_out_channels=64,
        higher_in_channels=32,
        lower_in_channels=64,
        fusion_out_channels=64,
    ),
    decode_head=dict(in_channels=64, channels=64),
    auxiliary_head=[
        dict(head, in_channels=width) for head, width in zip(_base_.model.auxiliary_head, (64, 32), strict=True)
    ],
)
