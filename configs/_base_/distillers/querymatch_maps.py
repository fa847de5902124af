"""QueryMatch on the map of a foundation model, before labels (GKD's first stage) or beside them; untested here."""

# fits: maps
distillers = dict(querymatch=dict(type='QueryMatch', student_tap='backbone[-1]', teacher_tap='map'))
