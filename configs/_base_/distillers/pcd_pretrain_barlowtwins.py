"""PCD with Barlow Twins' teacher: projector and predictor have three layers of 8192, as its head has."""

# fits: pretrain, teacher barlowtwins-r50
_base_ = './pcd_pretrain.py'
distillers = dict(pcd=dict(head=dict(layers=3)))
