"""A method that compares maps of detectors: docs/settings.md."""

_base_ = './featuredistiller.py'
distillers = dict(method=dict(loss_weight=5.0))
