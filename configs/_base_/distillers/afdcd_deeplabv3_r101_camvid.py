"""Af-DCD on CamVid; constants of the authors' script. No pooling: their code switches it off for this data set."""

# fits: teacher deeplabv3 r101, data camvid
_base_ = './afdcd_deeplabv3_r101_cityscapes.py'
distillers = dict(afdcd=dict(fd_weight=8e-6, ctr_weight=0.01, pool_size=0))
