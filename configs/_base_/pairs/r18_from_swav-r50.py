"""Pre-training: a ResNet-50 of SwAV teaches a ResNet-18."""

_base_ = './r18_from_mocov3-r50.py'
model = dict(teacher=dict(layout='swav', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/swav_r50.pth'))
