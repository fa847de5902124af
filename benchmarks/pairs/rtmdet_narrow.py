"""RTMDet of two thirds of the width of RTMDet-tiny, from random weights."""

_base_ = __import__('mmdistill_dense').base('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
model = dict(
    backbone=dict(widen_factor=0.25, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64),
)
