"""LogitKD in its plain form: docs/settings.md."""

distillers = dict(kd=dict(type='LogitKD', balance=dict(ratio=1.0), temperature=1.0))
