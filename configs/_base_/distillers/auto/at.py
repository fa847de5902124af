"""AT on any pair: docs/settings.md."""

distillers = dict(at=dict(type='AT', student_tap='auto', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
