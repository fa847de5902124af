"""120k iterations of SGD on 12 images, the schedule of mmseg's PIDNet and DDRNet models: 6 on each of 2 GPUs."""

_base_ = './_iterations.py'
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=120000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=120000, val_interval=12000)
default_hooks = dict(checkpoint=dict(interval=12000))
auto_scale_lr = dict(enable=False, base_batch_size=12)
