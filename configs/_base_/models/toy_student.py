"""The student on generated data: width 8, 0.25 M parameters."""

_base_ = './toy.py'
model = dict(backbone=dict(stem_channels=8, base_channels=8), decode_head=dict(in_channels=64, channels=32))
