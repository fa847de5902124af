"""MasKD on class scores for the generated data: a tenth of the learning."""

# fits: seg, pair toy
_base_ = './maskd_seg.py'
distillers = dict(maskd=dict(learn=dict(max_iters=200, save_interval=100)))
