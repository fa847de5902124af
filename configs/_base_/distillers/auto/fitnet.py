"""FitNet on any pair: docs/settings.md."""

distillers = dict(
    fitnet=dict(type='FitNet', student_tap='auto', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0)))
)
