"""MGD on any pair: docs/settings.md."""

distillers = dict(
    mgd=dict(type='MGD', student_tap='auto', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0)))
)
