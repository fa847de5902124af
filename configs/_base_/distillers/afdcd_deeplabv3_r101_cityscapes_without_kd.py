"""Af-DCD without the logit distillation of the published recipe."""

# fits: teacher deeplabv3 r101, data cityscapes, variant without_kd
_base_ = './afdcd_deeplabv3_r101_cityscapes.py'
distillers = dict(kd=dict(loss_weight=0))
