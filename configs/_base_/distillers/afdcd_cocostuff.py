"""Af-DCD on COCO-Stuff for any pair; the published weights, that of mimicking 5e-6 times 2048 x 64 x 64 for a mean."""

# fits: data cocostuff
_base_ = './afdcd_deeplabv3_r101_cocostuff.py'
distillers = dict(afdcd=dict(fd_weight=41.9, fd_reduction='mean'))
