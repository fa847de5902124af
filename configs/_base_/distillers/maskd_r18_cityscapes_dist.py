"""MasKD beside DIST, both on the class scores: an example of two methods, our own choice."""

# fits: student r18, data cityscapes, variant dist
_base_ = './maskd_r18_seg.py'
distillers = dict(
    maskd=dict(learn=dict(max_iters=10000)),
    dist=dict(type='DIST', beta=1.0, gamma=1.0),
)
