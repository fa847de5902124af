"""MGD on any pair of detectors: docs/settings.md."""

_base_ = './featuredistiller.py'
distillers = dict(method=dict(loss_weight=100.0))
