"""The same from random weights."""

_base_ = './mask_rcnn_r18_supervised.py'
model = dict(student=dict(backbone=dict(init_cfg=None)))
