"""100 epochs of LARS on 1024 images, as PCD's code: 10 epochs of warm-up, then cosine to 0, here at each iteration.

The code moves the rate once an epoch.

The learning rate follows the batch: 4.0 x images in all / 1024, by auto_scale_lr.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='mmdistill_dense.LARS', lr=4.0, momentum=0.9, weight_decay=1e-5, eta=1e-3),
)
param_scheduler = [
    # start_factor=0 would stay 0 for ever
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=90, eta_min=0, by_epoch=True, begin=10, end=100, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100)
auto_scale_lr = dict(enable=True, base_batch_size=1024)
default_hooks = dict(
    distill=dict(type='mmdistill_dense.DistillHook'),  # silent for ordinary models
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
)
