"""Af-DCD on Cityscapes, with the logit distillation that the published recipe adds.

Constants: the authors' training scripts (OSVAI/Af-DCD, lambda_kd, lambda_fd, lambda_ctr). What stands in no script is
the default of AfDCD: temperature 0.07, 16 groups, patch 4x4, pooling 4, mask ratio 0.75, clipping at 15.
"""

distillers = dict(
    kd=dict(type='LogitKD', loss_weight=1.0),
    afdcd=dict(type='AfDCD', fd_weight=2e-6, ctr_weight=0.005),
)
