"""MasKD beside DIST, both on the class scores: an example of two methods, our own choice."""

# fits: student r18, data cityscapes, variant dist
_base_ = './maskd_r18_cityscapes.py'
distillers = dict(dist=dict(type='DIST', beta=1.0, gamma=1.0))
