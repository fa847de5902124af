"""CWD on class scores, as published: docs/settings.md."""

distillers = dict(cwd=dict(type='CWD', balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))))
