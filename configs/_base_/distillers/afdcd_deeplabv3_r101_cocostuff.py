"""Af-DCD on COCO-Stuff 164k; constants of the authors' script, written for 182 outputs."""

# fits: teacher deeplabv3 r101, data cocostuff
_base_ = './afdcd_deeplabv3_r101_cityscapes.py'
distillers = dict(kd=dict(loss_weight=0.5), afdcd=dict(fd_weight=5e-6))
