"""Af-DCD's contrast alone: no mimicking, no logit distillation."""

# fits: teacher deeplabv3 r101, data cityscapes, variant contrast
_base_ = './afdcd_deeplabv3_r101_cityscapes.py'
distillers = dict(kd=dict(loss_weight=0), afdcd=dict(fd_weight=0))
