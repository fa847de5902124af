"""Af-DCD on VOC 2012 for any pair; the published weights, that of mimicking 1e-6 times 2048 x 64 x 64 for a mean."""

# fits: data voc
_base_ = './afdcd_seg.py'
distillers = dict(afdcd=dict(fd_weight=8.4))
