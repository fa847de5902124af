"""FitNet on all levels of the neck, at weight 1; our own choice, untested."""

# fits: det
distillers = dict(fitnet=dict(type='FitNet', student_tap='neck', loss_weight=1.0))
