"""QueueKL on its own taps: docs/settings.md."""

distillers = dict(queuekl=dict(type='QueueKL', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
