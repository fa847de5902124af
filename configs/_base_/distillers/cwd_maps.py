"""CWD on the map of a foundation model, with CIRKD's weight for features; untested here."""

# fits: maps
distillers = dict(cwd=dict(type='CWD', student_tap='backbone[-1]', teacher_tap='map', loss_weight=50.0))
