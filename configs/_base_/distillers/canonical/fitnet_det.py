"""FitNet in its plain form: all levels of the neck: docs/settings.md."""

distillers = dict(fitnet=dict(type='FitNet', student_tap='auto', loss_weight=5.0))
