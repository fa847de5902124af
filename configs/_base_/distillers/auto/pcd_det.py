"""PCD on any pair of detectors: docs/settings.md."""

_base_ = './pcd.py'
distillers = dict(pcd=dict(loss_weight=5.0))
