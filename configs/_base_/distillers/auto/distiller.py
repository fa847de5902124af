"""A method on its own taps, also one of your own: docs/settings.md."""

distillers = dict(own=dict(balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
