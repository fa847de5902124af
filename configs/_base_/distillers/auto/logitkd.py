"""LogitKD on detectors: docs/settings.md."""

distillers = dict(kd=dict(type='LogitKD', loss_weight=1.0, schedule=dict(ramp_down=(0, 1.0))))
