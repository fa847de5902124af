"""LogitKD on detectors: class scores pull where the labels do, hence a ratio of 1: docs/settings.md."""

distillers = dict(kd=dict(type='LogitKD', balance=dict(ratio=1.0), schedule=dict(ramp_down=(0, 1.0))))
