"""PKD on the map of a foundation model, with its weight for detectors; untested here."""

# fits: maps
distillers = dict(pkd=dict(type='PKD', student_tap='backbone[-1]', teacher_tap='map', loss_weight=10.0))
