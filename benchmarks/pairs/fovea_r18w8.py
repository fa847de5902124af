"""FoveaBox on a ResNet-18 of an eighth of the width, from random weights."""

_base_ = './fovea_r18w16.py'
model = dict(backbone=dict(stem_channels=8, base_channels=8), neck=dict(in_channels=[8, 16, 32, 64]))
