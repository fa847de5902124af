"""CIRKD on Cityscapes: the released scripts leave everything at its default (`train_cirkd/citys`)."""

# fits: data cityscapes
_base_ = './cirkd_seg.py'
distillers = dict(cirkd=dict(minibatch_weight=1.0, pixel_weight=0.1, region_weight=0.1))
