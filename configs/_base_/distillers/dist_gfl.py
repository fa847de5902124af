"""DIST on GFL's class scores, a sigmoid each; constants of the released RetinaNet config (hunto/MasKD)."""

# fits: det, pair gfl|toy
distillers = dict(dist=dict(type='DIST', student_tap='bbox_head.gfl_cls', activation='sigmoid'))
