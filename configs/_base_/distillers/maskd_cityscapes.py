"""MasKD on Cityscapes: the published length of the learning."""

# fits: data cityscapes
_base_ = './maskd_seg.py'
distillers = dict(maskd=dict(learn=dict(max_iters=10000)))
