"""The schedule of MasKD and DIST on Cityscapes: lr = 1e-4 + 0.0199 (1 - it / 40000)^0.9, evaluation every 400 steps."""

_base_ = './_iterations.py'
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4))
# end = max_iters + 1: mmengine's PolyLR reaches eta_min one step before its end
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-4, begin=0, end=40001, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=400)
auto_scale_lr = dict(enable=False, base_batch_size=16)
