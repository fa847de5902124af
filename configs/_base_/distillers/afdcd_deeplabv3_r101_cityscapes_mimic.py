"""Af-DCD's mimicking alone: no contrast, no logit distillation."""

# fits: teacher deeplabv3 r101, data cityscapes, variant mimic
_base_ = './afdcd_deeplabv3_r101_cityscapes.py'
distillers = dict(kd=dict(loss_weight=0), afdcd=dict(ctr_weight=0))
