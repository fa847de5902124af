"""PKD on the first four levels of an FPN; weight of the authors' configs for one-stage detectors (mmrazor)."""

# fits: det
distillers = dict(pkd=dict(type='PKD', student_tap='neck[:4]', loss_weight=10.0))
