"""DIST on RepPoints's class scores, a sigmoid each; constants of the released RetinaNet config (hunto/MasKD)."""

# fits: pair reppoints
distillers = dict(dist=dict(type='DIST', student_tap='bbox_head.reppoints_cls_out', activation='sigmoid'))
