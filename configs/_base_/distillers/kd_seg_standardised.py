"""Logit distillation of standardised scores (CVPR 2024); temperature as released, weight and warm-up are ours."""

# fits: seg, variant standardised
distillers = dict(
    kd=dict(type='LogitKD', temperature=2.0, standardise=True, loss_weight=3.0, schedule=dict(warmup=0.05))
)
