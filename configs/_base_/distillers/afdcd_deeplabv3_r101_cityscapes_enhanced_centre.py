"""Af-DCD with four-convolution projector and fixed centre mask: the other reading of the authors' ResNet-18 script."""

# fits: teacher deeplabv3 r101, data cityscapes, variant enhanced_centre
_base_ = './afdcd_deeplabv3_r101_cityscapes_enhanced.py'
distillers = dict(afdcd=dict(mask=dict(type='centre')))
