"""Af-DCD on PASCAL VOC 2012; constants of the authors' script."""

# fits: teacher deeplabv3 r101, data voc
_base_ = './afdcd_deeplabv3_r101_cityscapes.py'
distillers = dict(afdcd=dict(fd_weight=1e-6))
