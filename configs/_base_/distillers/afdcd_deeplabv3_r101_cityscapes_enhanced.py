"""Af-DCD with the four-convolution projector, which the authors' ResNet-18 script for Cityscapes names."""

# fits: teacher deeplabv3 r101, data cityscapes, variant enhanced
_base_ = './afdcd_deeplabv3_r101_cityscapes.py'
distillers = dict(afdcd=dict(projector='enhanced'))
