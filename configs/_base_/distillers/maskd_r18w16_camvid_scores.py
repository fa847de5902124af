"""MasKD on class scores for the small CamVid pair: a fifth of the learning, which is flat from there on."""

# fits: student r18w16, data camvid, variant scores
_base_ = './maskd_seg.py'
distillers = dict(maskd=dict(learn=dict(max_iters=400, save_interval=100)))
