"""Af-DCD on ADE20K for any pair, with the published weights.

Our mimicking loss is a mean and theirs a sum, so its weight is 1e-6 x 2048 x 64 x 64.
"""

# fits: data ade20k
_base_ = './afdcd_deeplabv3_r101_ade20k.py'
distillers = dict(afdcd=dict(fd_weight=8.4, fd_reduction='mean'))
