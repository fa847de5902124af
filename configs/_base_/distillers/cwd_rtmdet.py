"""CWD on the last convolutions of RTMDet's neck, standardised, without the last 20 of 300 epochs: mmyolo's config."""

# fits: pair rtmdet
distillers = dict(
    cwd=dict(
        type='CWD',
        student_tap=[f'neck.out_convs.{level}.conv' for level in range(3)],
        temperature=1.0,
        norm=True,
        schedule=dict(stop_at=280 / 300),
    )
)
