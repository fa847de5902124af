"""AfDCD on any pair: docs/settings.md."""

distillers = dict(
    afdcd=dict(
        type='AfDCD',
        student_tap='auto',
        loss_weight=0.005,
        schedule=dict(ramp_down=(0, 1.0)),
        fd_weight=33.6,
        fd_reduction='mean',
        ctr_weight=0.005,
        groups='auto',
        pool_size='auto',
        patch_size=(4, 4),
    )
)
