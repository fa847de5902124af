"""LogitKD in its plain form: docs/settings.md."""

distillers = dict(kd=dict(type='LogitKD', loss_weight=2.0, temperature=1.0))
