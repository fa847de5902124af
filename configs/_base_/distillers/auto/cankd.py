"""CanKD on any pair: docs/settings.md."""

distillers = dict(
    cankd=dict(type='CanKD', student_tap='auto', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0)))
)
