"""80k iterations of SGD on 8 images, the schedule of mmseg's DeepLabV3 and PSPNet models of Cityscapes."""

_base_ = './sgd_40k.py'
optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-4, begin=0, end=80000, by_epoch=False)]
train_cfg = dict(max_iters=80000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
auto_scale_lr = dict(base_batch_size=8)
