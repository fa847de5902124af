"""CWD on class scores, as published: docs/settings.md."""

distillers = dict(cwd=dict(type='CWD', loss_weight=0.25, schedule=dict(ramp_down=(0, 1.0))))
