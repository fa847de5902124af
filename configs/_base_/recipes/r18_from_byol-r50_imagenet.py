"""Pre-training: a ResNet-50 of BYOL teaches a ResNet-18."""

# pair: r18_from_byol-r50
_base_ = [
    '../pairs/r18_from_mocov3-r50.py',
    '../datasets/imagenet_unlabeled.py',
    '../schedules/pcd_100e.py',
    '../runtime_pretrain.py',
]
model = dict(teacher=dict(layout='byol', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/byol_r50.pth'))
