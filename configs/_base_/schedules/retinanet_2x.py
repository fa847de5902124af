"""The schedule of the RetinaNet pairs of MasKD: twice mmdet's learning rate for RetinaNet, 1000 steps of warm-up."""

_base_ = './sgd_2x.py'
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=24, by_epoch=True, milestones=[16, 22], gamma=0.1),
]
