"""Af-DCD with logit KD for the generated data: the paper's CamVid weights, converted to a mean (see AfDCD)."""

# fits: seg, pair toy
distillers = dict(
    kd=dict(type='LogitKD', loss_weight=1.0),
    afdcd=dict(type='AfDCD', fd_weight=33.0, fd_reduction='mean', ctr_weight=0.01, pool_size=0),
)
