"""SegFormer-B0 of half the width, from random weights."""

_base_ = __import__('mmdistill_dense').base('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py')
model = dict(
    backbone=dict(embed_dims=16, init_cfg=None),
    decode_head=dict(in_channels=[16, 32, 80, 128], channels=128),
)
