"""LogitKD on segmentors: class scores pull where the labels do, so to the end of a run: docs/settings.md."""

distillers = dict(kd=dict(type='LogitKD', loss_weight=2.0))
