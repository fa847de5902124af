"""MGD on all levels of an FPN; constants of the authors' configs for one-stage detectors (yzd-v/MGD, det)."""

# fits: det
distillers = dict(mgd=dict(type='MGD', student_tap='neck', mask_ratio=0.65, alpha=2e-5))
