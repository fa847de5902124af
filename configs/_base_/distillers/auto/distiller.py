"""A method on its own taps, also one of your own: docs/settings.md."""

distillers = dict(method=dict(loss_weight=1.0, schedule=dict(ramp_down=(0, 1.0))))
