"""The schedule of MasKD on Cityscapes: lr = 1e-4 + 0.0199 (1 - it / 40000)^0.9, evaluation every 400 iterations."""

_base_ = './sgd_40k.py'
# end = max_iters + 1: mmengine's PolyLR reaches eta_min one step before its end
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-4, begin=0, end=40001, by_epoch=False)]
train_cfg = dict(val_interval=400)
