"""FitNet in its plain form: all levels of the neck: docs/settings.md."""

distillers = dict(fitnet=dict(type='FitNet', student_tap='auto', balance=dict(ratio='auto')))
