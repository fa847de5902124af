"""HeadOutputKD on its own taps: docs/settings.md."""

distillers = dict(kd=dict(type='HeadOutputKD', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
