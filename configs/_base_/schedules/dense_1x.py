"""The 1x schedule of mmdet's GFL and ATSS: half the learning rate of a two-stage detector."""

_base_ = './sgd_1x.py'
optim_wrapper = dict(optimizer=dict(lr=0.01))
