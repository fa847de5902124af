"""AT on every level of the neck; our own choice and untested, nothing is published for these detectors."""

# fits: det
distillers = dict(at=dict(type='AT', student_tap='neck', reduction='sum'))
