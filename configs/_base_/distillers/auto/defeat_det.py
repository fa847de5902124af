"""DeFeat on any pair of detectors: docs/settings.md."""

distillers = dict(defeat=dict(type='DeFeat', student_tap='auto', loss_weight=5.0, schedule=dict(ramp_down=(0, 1.0))))
