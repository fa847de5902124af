"""Pre-training: a ResNet-50 of MoCo v2 teaches a ResNet-18."""

_base_ = './r18_from_mocov3-r50.py'
model = dict(teacher=dict(layout='mocov2', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mocov2_r50.pth'))
