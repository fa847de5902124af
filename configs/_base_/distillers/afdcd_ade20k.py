"""Af-DCD on ADE20K for any pair; the published weights, that of mimicking 1e-6 times 2048 x 64 x 64 for a mean."""

# fits: data ade20k
_base_ = './afdcd_deeplabv3_r101_ade20k.py'
distillers = dict(afdcd=dict(fd_weight=8.4, fd_reduction='mean'))
