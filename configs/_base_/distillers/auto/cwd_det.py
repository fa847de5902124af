"""CWD on the maps of any pair of detectors: docs/settings.md."""

distillers = dict(cwd=dict(type='CWD', student_tap='auto', loss_weight=5.0, schedule=dict(ramp_down=(0, 1.0))))
