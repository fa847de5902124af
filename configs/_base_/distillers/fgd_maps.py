"""FGD on the map of a foundation model and the last stage of the backbone, RetinaNet's constants; untested here."""

# fits: maps, det
distillers = dict(
    fgd=dict(type='FGD', student_tap='backbone[-1]', teacher_tap='map', alpha=1e-3, beta=5e-4, gamma=5e-4, lambda_=5e-6)
)
