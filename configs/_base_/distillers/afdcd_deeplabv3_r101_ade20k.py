"""Af-DCD on ADE20K; constants of the authors' script."""

# fits: teacher deeplabv3 r101, data ade20k
_base_ = './afdcd_deeplabv3_r101_cityscapes.py'
distillers = dict(kd=dict(loss_weight=0.5), afdcd=dict(fd_weight=1e-6, ctr_weight=0.04))
