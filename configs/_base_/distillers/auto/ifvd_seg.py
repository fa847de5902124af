"""IFVD on any pair of segmentors: docs/settings.md."""

distillers = dict(ifvd=dict(type='IFVD', student_tap='auto', loss_weight=2.0, schedule=dict(ramp_down=(0, 1.0))))
