"""The schedule of the RepPoints pair of MasKD, which is mmdet's."""

_base_ = './sgd_2x.py'
optim_wrapper = dict(optimizer=dict(lr=0.01))
