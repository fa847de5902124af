"""LD on its own taps: docs/settings.md."""

distillers = dict(ld=dict(type='LD', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
