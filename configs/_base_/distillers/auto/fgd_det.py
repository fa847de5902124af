"""FGD on any pair of detectors: docs/settings.md."""

distillers = dict(fgd=dict(type='FGD', student_tap='auto', loss_weight=10.0, schedule=dict(ramp_down=(0, 1.0))))
