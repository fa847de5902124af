"""MasKD on class scores for the small CamVid pair: a fifth of the learning, which is flat from there on."""

_base_ = './maskd_seg.py'
distillers = dict(maskd=dict(learn=dict(max_iters=400, save_interval=100)))
