"""Pre-training: a ResNet-50 of DINO teaches a ResNet-18."""

_base_ = './r18_from_mocov3-r50.py'
model = dict(teacher=dict(layout='dino', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dino_r50.pth'))
