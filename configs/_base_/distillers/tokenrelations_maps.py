"""TokenRelations on the map of a foundation model, beside labels, which tell pictures apart; untested here."""

# fits: maps
distillers = dict(tokenrelations=dict(type='TokenRelations', student_tap='backbone[-1]', teacher_tap='map'))
