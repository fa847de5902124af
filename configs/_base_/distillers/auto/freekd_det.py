"""FreeKD on any pair of detectors: docs/settings.md."""

distillers = dict(
    freekd=dict(type='FreeKD', student_tap='auto', loss_weight=1.0, schedule=dict(ramp_down=(0, 1.0)), num_tokens=6)
)
