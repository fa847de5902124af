"""FGD on all levels of an FPN; constants of the authors' RepPoints configs (yzd-v/FGD)."""

# fits: pair reppoints
distillers = dict(fgd=dict(type='FGD', student_tap='neck', alpha=1.6e-3, beta=8e-4, gamma=8e-4, lambda_=8e-6))
