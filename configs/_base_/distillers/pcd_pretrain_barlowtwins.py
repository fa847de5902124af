"""PCD with Barlow Twins' teacher: projector and predictor have three layers of 8192, as its head has."""

_base_ = './pcd_pretrain.py'
distillers = dict(pcd=dict(head=dict(layers=3)))
