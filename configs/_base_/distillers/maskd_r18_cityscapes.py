"""MasKD on Cityscapes for students with an auxiliary head: the published length of the learning."""

# fits: student r18, data cityscapes
_base_ = './maskd_r18_seg.py'
distillers = dict(maskd=dict(learn=dict(max_iters=10000)))
