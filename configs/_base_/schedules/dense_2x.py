"""24 epochs for RetinaNet and RepPoints, mmdet's 2x schedules: half the learning rate of two-stage detectors."""

_base_ = './sgd_2x.py'
optim_wrapper = dict(optimizer=dict(lr=0.01))
