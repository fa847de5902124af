"""SegNeXt of half the width and fewer blocks than SegNeXt-T, from random weights."""

_base_ = __import__('mmdistill_dense').base('mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py')
model = dict(
    backbone=dict(embed_dims=[16, 32, 80, 128], depths=[2, 2, 3, 2], init_cfg=None),
    decode_head=dict(in_channels=[32, 80, 128], channels=128, ham_channels=128),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # the zoo's is for a pretrained backbone
