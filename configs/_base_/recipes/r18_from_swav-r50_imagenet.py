"""Pre-training: a ResNet-50 of SwAV teaches a ResNet-18."""

# pair: r18_from_swav-r50
_base_ = [
    '../pairs/r18_from_mocov3-r50.py',
    '../datasets/imagenet_unlabeled.py',
    '../schedules/pcd_100e.py',
    '../runtime_pretrain.py',
]
model = dict(teacher=dict(layout='swav', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/swav_r50.pth'))
