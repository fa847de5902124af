"""FitNet in its plain form: the last map before the class scores: docs/settings.md."""

distillers = dict(fitnet=dict(type='FitNet', student_tap='auto[-1]', loss_weight=0.3))
