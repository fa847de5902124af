"""MasKD for RetinaNet taught by a ResNeXt-101; constants of the authors' config."""

# fits: teacher retinanet x101
_base_ = './maskd_retinanet_r101.py'
distillers = dict(maskd=dict(student_mask_from=8500), regression=dict(form='smooth_l1'))
