"""DDRNet of half the width of DDRNet-23-slim, from random weights."""

_base_ = __import__('mmdistill_dense').base('mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py')
model = dict(backbone=dict(channels=16, ppm_channels=64, init_cfg=None), decode_head=dict(in_channels=64, channels=32))
