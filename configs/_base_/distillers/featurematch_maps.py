"""FeatureMatch on the map of a foundation model, before labels or beside them, by UNIC's weights; untested here."""

# fits: maps
distillers = dict(featurematch=dict(type='FeatureMatch', student_tap='backbone[-1]', teacher_tap='map'))
