"""AT, whose maps have unit norm, on any pair: docs/settings.md."""

_base_ = './featuredistiller.py'
distillers = dict(method=dict(loss_weight=15.0))
