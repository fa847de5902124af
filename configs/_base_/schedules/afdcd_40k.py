"""The schedule of the Af-DCD paper: lr = 0.02 (1 - it / 40000)^0.9, batch 16, evaluation every 800 iterations."""

_base_ = './_iterations.py'
# one group: student, heads, align and projector alike
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4))
# end = max_iters + 1: mmengine's PolyLR reaches eta_min one step before its end
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=40001, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=800)
auto_scale_lr = dict(enable=False, base_batch_size=16)
