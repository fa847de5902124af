"""MasKD on the maps of any pair of segmentors, masked as the released code has it for detectors: docs/settings.md."""

distillers = dict(
    maskd=dict(
        type='MasKD',
        student_tap='auto',
        loss_weight=0.25,
        schedule=dict(ramp_down=(0, 1.0)),
        weight_mask=True,
        align='conv',
        factor=1.0,
        eps=0.0,
        share_tokens=False,
        num_tokens=8,
        learn=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3), schedule='poly'),
    )
)
