"""A method that compares maps, also one of your own: docs/settings.md."""

distillers = dict(own=dict(student_tap='auto', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
