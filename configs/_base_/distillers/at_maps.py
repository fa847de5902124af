"""AT on the map of a foundation model, where a few large channels decide the energy; untested here."""

# fits: maps
distillers = dict(at=dict(type='AT', student_tap='backbone[-1]', teacher_tap='map', reduction='sum'))
