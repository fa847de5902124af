"""CrossKD on a small RetinaNet, whose towers have two convolutions: behind the first."""

# fits: pair retinanet, student r18w16
_base_ = './crosskd_retinanet.py'
distillers = dict(crosskd=dict(reuse_from=1))
