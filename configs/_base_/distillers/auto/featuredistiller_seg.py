"""A method that compares maps of segmentors: docs/settings.md."""

_base_ = './featuredistiller.py'
distillers = dict(method=dict(loss_weight=0.3))
