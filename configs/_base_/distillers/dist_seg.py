"""DIST on the main head's class scores: beta, gamma and weight 1, the released segmentation code (hunto/DIST_KD)."""

# fits: seg
distillers = dict(dist=dict(type='DIST', beta=1.0, gamma=1.0))
