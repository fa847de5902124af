"""PIDNet of half the width of PIDNet-S, from random weights."""

_base_ = __import__('mmdistill_dense').base('mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py')
model = dict(backbone=dict(channels=16, ppm_channels=48, init_cfg=None), decode_head=dict(in_channels=64, channels=64))
