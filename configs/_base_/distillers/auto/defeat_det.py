"""DeFeat on any pair of detectors: docs/settings.md."""

distillers = dict(
    defeat=dict(type='DeFeat', student_tap='auto', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0)))
)
