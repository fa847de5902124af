"""FGD on P2 to P5 of a two-stage detector; constants of the authors' Faster and Mask R-CNN configs (yzd-v/FGD)."""

# fits: pair rcnn
distillers = dict(fgd=dict(type='FGD', student_tap='neck[:4]', alpha=5e-5, beta=2.5e-5, gamma=5e-5, lambda_=5e-7))
