"""Af-DCD on VOC 2012 for any pair, with the published weights.

Our mimicking loss is a mean and theirs a sum, so its weight is 1e-6 x 2048 x 64 x 64.
"""

# fits: data voc
_base_ = './afdcd_seg.py'
distillers = dict(afdcd=dict(fd_weight=8.4))
