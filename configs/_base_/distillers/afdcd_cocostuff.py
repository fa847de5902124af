"""Af-DCD on COCO-Stuff for any pair, with the published weights.

Our mimicking loss is a mean and theirs a sum, so its weight is 5e-6 x 2048 x 64 x 64.
"""

# fits: data cocostuff
_base_ = './afdcd_deeplabv3_r101_cocostuff.py'
distillers = dict(afdcd=dict(fd_weight=41.9, fd_reduction='mean'))
