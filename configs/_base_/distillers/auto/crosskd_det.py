"""CrossKD on its own taps: docs/settings.md."""

distillers = dict(crosskd=dict(type='CrossKD', loss_weight=1.0, schedule=dict(ramp_down=(0, 1.0))))
