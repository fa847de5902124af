"""Af-DCD on CamVid for any pair; the published weights, that of mimicking 8e-6 times 2048 x 45 x 45 for a mean."""

# fits: data camvid
_base_ = './afdcd_deeplabv3_r101_camvid.py'
distillers = dict(afdcd=dict(fd_weight=33.2, fd_reduction='mean'))
