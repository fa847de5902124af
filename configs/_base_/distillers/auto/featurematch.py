"""FeatureMatch on any pair: docs/settings.md."""

distillers = dict(
    featurematch=dict(
        type='FeatureMatch', student_tap='auto', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))
    )
)
