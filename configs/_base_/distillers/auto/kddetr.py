"""KDDETR on its own taps: docs/settings.md."""

distillers = dict(kddetr=dict(type='KDDETR', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
