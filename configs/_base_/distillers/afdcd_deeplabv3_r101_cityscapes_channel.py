"""Af-DCD that contrasts over the channels alone."""

# fits: teacher deeplabv3 r101, data cityscapes, variant channel
_base_ = './afdcd_deeplabv3_r101_cityscapes.py'
distillers = dict(afdcd=dict(contrast='channel'))
