"""DIST, and mean squares on the levels of the neck behind 1x1 convolutions; released (hunto/MasKD, mmrazor)."""

# fits: pair retinanet, variant mimic
_base_ = './dist_retinanet.py'
distillers = dict(mimic=dict(type='FitNet', student_tap='neck', loss_weight=1.0))
