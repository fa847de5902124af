"""LogitKD: a constant weight, as class scores pull where the labels do: docs/settings.md."""

distillers = dict(kd=dict(type='LogitKD', loss_weight=2.0))
