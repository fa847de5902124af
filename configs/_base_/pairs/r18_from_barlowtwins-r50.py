"""Pre-training: a ResNet-50 of Barlow Twins teaches a ResNet-18."""

_base_ = './r18_from_mocov3-r50.py'
model = dict(teacher=dict(layout='barlowtwins', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/barlowtwins_r50.pth'))
