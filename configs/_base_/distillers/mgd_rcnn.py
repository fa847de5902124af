"""MGD on P2 to P5 of a two-stage detector; constants of the authors' Faster and Mask R-CNN configs (yzd-v/MGD, det)."""

# fits: pair rcnn
distillers = dict(mgd=dict(type='MGD', student_tap='neck[:4]', mask_ratio=0.45, alpha=5e-7))
