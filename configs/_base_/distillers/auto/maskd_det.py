"""MasKD on any pair of detectors: docs/settings.md."""

distillers = dict(
    maskd=dict(
        type='MasKD',
        student_tap='auto',
        loss_weight=10.0,
        schedule=dict(ramp_down=(0, 1.0)),
        weight_mask=True,
        align='conv',
        factor=1.0,
        eps=0.0,
        share_tokens=False,
        num_tokens=6,
    )
)
