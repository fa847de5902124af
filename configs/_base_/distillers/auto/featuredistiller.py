"""A method that compares maps, also one of your own: docs/settings.md."""

distillers = dict(method=dict(student_tap='auto', loss_weight=0.3, schedule=dict(ramp_down=(0, 1.0))))
