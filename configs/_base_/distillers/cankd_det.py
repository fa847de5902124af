"""CanKD on all levels of an FPN; the authors' weight of all their detectors, 10 before their factor 1/2."""

# fits: det
distillers = dict(cankd=dict(type='CanKD', student_tap='neck', loss_weight=5.0))
