"""AfDCD on any pair of detectors: docs/settings.md."""

_base_ = './afdcd.py'
distillers = dict(afdcd=dict(loss_weight=0.2))
