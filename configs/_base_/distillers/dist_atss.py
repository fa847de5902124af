"""DIST on ATSS's class scores, each a yes or no; constants of the released RetinaNet config (hunto/MasKD)."""

# fits: pair atss
distillers = dict(dist=dict(type='DIST', student_tap='bbox_head.atss_cls', activation='sigmoid'))
