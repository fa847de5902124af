"""DIST on FCOS's class scores, a sigmoid each; constants of the released RetinaNet config (hunto/MasKD)."""

# fits: pair fcos
distillers = dict(dist=dict(type='DIST', student_tap='bbox_head.conv_cls', activation='sigmoid'))
