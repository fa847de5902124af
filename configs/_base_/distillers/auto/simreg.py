"""SimReg on its own taps: docs/settings.md."""

distillers = dict(simreg=dict(type='SimReg', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
