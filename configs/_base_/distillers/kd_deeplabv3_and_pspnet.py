"""Logit distillation from two teachers, half the weight each: the student is pulled to the mean of their classes."""

# fits: teacher deeplabv3 and pspnet
distillers = dict(
    kd=dict(type='LogitKD', teacher='deeplabv3', loss_weight=0.5),
    kd_pspnet=dict(type='LogitKD', teacher='pspnet', loss_weight=0.5),
)
