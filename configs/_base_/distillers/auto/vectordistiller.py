"""QueueKL and SimReg on their own taps: docs/settings.md."""

distillers = dict(own=dict(balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
