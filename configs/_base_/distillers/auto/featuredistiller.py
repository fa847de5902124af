"""A method of your own that compares maps: docs/settings.md."""

distillers = dict(own=dict(student_tap='auto', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
