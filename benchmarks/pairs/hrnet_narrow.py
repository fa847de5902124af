"""HRNet of 8 channels and a module a stage, from random weights."""

_base_ = __import__('mmdistill_dense').base('mmseg::hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024.py')
widths = (8, 16, 32, 64)
model = dict(
    pretrained=None,
    backbone=dict(
        extra=dict(
            stage1=dict(num_blocks=(1,), num_channels=(16,)),
            stage2=dict(num_blocks=(1, 1), num_channels=widths[:2]),
            stage3=dict(num_modules=1, num_blocks=(1, 1, 1), num_channels=widths[:3]),
            stage4=dict(num_modules=1, num_blocks=(1, 1, 1, 1), num_channels=widths),
        )
    ),
    decode_head=dict(in_channels=widths, channels=64),
)
