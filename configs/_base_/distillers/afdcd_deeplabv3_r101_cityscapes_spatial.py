"""Af-DCD that contrasts over the positions alone."""

# fits: teacher deeplabv3 r101, data cityscapes, variant spatial
_base_ = './afdcd_deeplabv3_r101_cityscapes.py'
distillers = dict(afdcd=dict(contrast='spatial'))
