"""FreeKD for RetinaNet; constants of the authors' config for R101 to R50 (Gumpest/FreeKD), ours for other teachers."""

# fits: pair retinanet
_base_ = './freekd_det.py'
distillers = dict(regression=dict(type='HeadOutputKD', student_tap='bbox_head.retina_reg', form='smooth_l1'))
