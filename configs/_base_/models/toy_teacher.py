"""The teacher on generated data: width 16, 0.9 M parameters."""

_base_ = './toy.py'
model = dict(backbone=dict(base_channels=16), decode_head=dict(in_channels=128, channels=48))
