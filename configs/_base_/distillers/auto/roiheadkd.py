"""RoIHeadKD on its own taps: docs/settings.md."""

distillers = dict(kd=dict(type='RoIHeadKD', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
