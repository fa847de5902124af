"""Pre-training: a ResNet-50 of SimSiam teaches a ResNet-18."""

_base_ = './r18_from_mocov3-r50.py'
model = dict(teacher=dict(layout='simsiam', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/simsiam_r50.pth'))
