"""FGD on any pair of detectors: docs/settings.md."""

distillers = dict(
    fgd=dict(type='FGD', student_tap='auto', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0)))
)
