"""FitNet on the map of a foundation model. Its squares follow the largest channels: FeatureMatch standardises them."""

# fits: maps
distillers = dict(fitnet=dict(type='FitNet', student_tap='backbone[-1]', teacher_tap='map'))
