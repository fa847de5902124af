"""FRS on its own taps: docs/settings.md."""

distillers = dict(frs=dict(type='FRS', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
