"""DIST on ATSS's class scores, a sigmoid each; constants of the released RetinaNet config (hunto/MasKD)."""

# fits: pair atss
distillers = dict(dist=dict(type='DIST', student_tap='bbox_head.atss_cls', activation='sigmoid'))
