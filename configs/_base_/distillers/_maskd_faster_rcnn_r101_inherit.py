"""MasKD for a student that starts from the neck and heads of its teacher."""

_base_ = './maskd_faster_rcnn_r101.py'
distillers = dict(maskd=dict(loss_weight=3.0))
