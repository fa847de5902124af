"""DIST on RetinaNet's class scores, a sigmoid each; constants of the released config (hunto/MasKD, mmrazor)."""

# fits: pair retinanet
distillers = dict(dist=dict(type='DIST', student_tap='bbox_head.retina_cls', activation='sigmoid'))
