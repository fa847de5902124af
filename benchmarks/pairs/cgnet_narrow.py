"""CGNet of half the width and fewer blocks, from random weights."""

_base_ = __import__('mmdistill_dense').base('mmseg::cgnet/cgnet_fcn_4xb8-60k_cityscapes-512x1024.py')
model = dict(
    backbone=dict(num_channels=(16, 32, 64), num_blocks=(2, 6)),
    decode_head=dict(in_channels=128, channels=128),
)
