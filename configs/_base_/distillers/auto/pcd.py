"""PCD on any pair: docs/settings.md."""

distillers = dict(
    pcd=dict(
        type='PCD',
        student_tap='auto',
        loss_weight=0.1,
        schedule=dict(ramp_down=(0, 1.0)),
        queue_size='auto',
        keys_per_image=1,
        enqueue='pixels',
        num_pixels=512,
        head=dict(type='linear'),
    )
)
