"""Pre-training: a ResNet-50 of BYOL teaches a ResNet-18."""

_base_ = './r18_from_mocov3-r50.py'
model = dict(teacher=dict(layout='byol', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/byol_r50.pth'))
