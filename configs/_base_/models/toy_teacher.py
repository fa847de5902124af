"""The teacher on generated data: width 24, 1.8 M parameters."""

_base_ = './toy.py'
model = dict(backbone=dict(stem_channels=24, base_channels=24), decode_head=dict(in_channels=192, channels=48))
