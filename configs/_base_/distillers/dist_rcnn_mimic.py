"""DIST, and mean squares on the levels of the neck behind 1x1 convolutions; released (hunto/MasKD, mmrazor)."""

# fits: pair rcnn, variant mimic
_base_ = './dist_rcnn.py'
distillers = dict(mimic=dict(type='FitNet', student_tap='neck', loss_weight=1.0))
