"""Af-DCD with logit KD for any pair; the published weights of Cityscapes.

The mimicking is in units of the mean, so it has the paper's effect on a map of any size: 2e-6 times 2048 x 64 x 128.
"""

# fits: seg
_base_ = './afdcd_deeplabv3_r101_cityscapes.py'
distillers = dict(afdcd=dict(fd_weight=33.6, fd_reduction='mean'))
