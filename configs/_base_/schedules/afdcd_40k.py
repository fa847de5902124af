"""The schedule of the Af-DCD paper: lr = 0.02 (1 - it / 40000)^0.9, batch 16, evaluation every 800 iterations."""

_base_ = './sgd_40k.py'
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))  # one group: student, heads, align and projector alike
# end = max_iters + 1: mmengine's PolyLR reaches eta_min one step before its end
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=40001, by_epoch=False)]
train_cfg = dict(val_interval=800)
