"""Logit distillation from the two teachers of the generated data, half the weight each."""

# fits: pair toy and psp
distillers = dict(
    kd=dict(type='LogitKD', teacher='aspp', loss_weight=0.5),
    kd_psp=dict(type='LogitKD', teacher='psp', loss_weight=0.5),
)
