"""MasKD for a student that starts from the neck and head of its teacher."""

_base_ = './maskd_reppoints_x101.py'
distillers = dict(maskd=dict(loss_weight=15.0, student_mask_from=8500))
