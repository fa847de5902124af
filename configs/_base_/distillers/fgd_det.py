"""FGD on all levels of an FPN; constants of the authors' RetinaNet, GFL and SOLO configs (yzd-v/FGD)."""

# fits: det
distillers = dict(fgd=dict(type='FGD', student_tap='neck', alpha=1e-3, beta=5e-4, gamma=5e-4, lambda_=5e-6))
