"""DIST on GFL's class scores, each a yes or no; constants of the released RetinaNet config (hunto/MasKD)."""

# fits: pair gfl
distillers = dict(dist=dict(type='DIST', student_tap='bbox_head.gfl_cls', activation='sigmoid'))
