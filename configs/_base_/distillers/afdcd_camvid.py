"""Af-DCD on CamVid for any pair, with the published weights.

Our mimicking loss is a mean and theirs a sum, so its weight is 8e-6 x 2048 x 45 x 45.
"""

# fits: data camvid
_base_ = './afdcd_deeplabv3_r101_camvid.py'
distillers = dict(afdcd=dict(fd_weight=33.2, fd_reduction='mean'))
