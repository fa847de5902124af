"""320k iterations of SGD on 8 images: four times the schedule of mmseg's DeepLabV3 and PSPNet models of Cityscapes."""

_base_ = './_iterations.py'
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-4, begin=0, end=320000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=320000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
auto_scale_lr = dict(enable=False, base_batch_size=8)
