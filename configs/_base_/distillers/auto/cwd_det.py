"""CWD on the maps of any pair of detectors: docs/settings.md."""

distillers = dict(
    cwd=dict(type='CWD', student_tap='auto', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0)))
)
