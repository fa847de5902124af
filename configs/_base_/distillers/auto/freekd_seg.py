"""FreeKD on any pair of segmentors: docs/settings.md."""

distillers = dict(
    freekd=dict(
        type='FreeKD',
        student_tap='auto',
        loss_weight=0.05,
        schedule=dict(ramp_down=(0, 1.0)),
        num_tokens=6,
        learn=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3), schedule='poly'),
    )
)
