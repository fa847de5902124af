"""Pre-training: a self-supervised ResNet-50 (MoCo v3) teaches a ResNet-34."""

_base_ = './r18_from_mocov3-r50.py'
model = dict(student=dict(backbone=dict(depth=34)))
