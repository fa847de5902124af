"""SKD's pairs of positions on the map of a foundation model, each token a node; untested here."""

# fits: maps
distillers = dict(skd=dict(type='SKD', student_tap='backbone[-1]', teacher_tap='map', patch_size=1, loss_weight=10.0))
