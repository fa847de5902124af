"""CrossKD on its own taps: docs/settings.md."""

distillers = dict(crosskd=dict(type='CrossKD', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
