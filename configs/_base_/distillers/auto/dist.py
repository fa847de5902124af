"""DIST on class scores: docs/settings.md."""

distillers = dict(dist=dict(type='DIST', loss_weight=0.2, schedule=dict(ramp_down=(0, 1.0))))
