"""PKD on P2 to P5 of a two-stage detector; weight of the authors' Faster R-CNN config (mmrazor)."""

# fits: pair rcnn
distillers = dict(pkd=dict(type='PKD', student_tap='neck[:4]', loss_weight=6.0))
