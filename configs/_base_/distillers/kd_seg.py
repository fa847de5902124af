"""Logit distillation alone."""

# fits: seg
distillers = dict(kd=dict(type='LogitKD'))
