"""Logit distillation alone."""

distillers = dict(kd=dict(type='LogitKD'))
