"""Pre-training: a ResNet-50 of MoCo v2 teaches a ResNet-18."""

# pair: r18_from_mocov2-r50
_base_ = [
    '../pairs/r18_from_mocov3-r50.py',
    '../datasets/imagenet_unlabeled.py',
    '../schedules/pcd_100e.py',
    '../runtime_pretrain.py',
]
# The published file holds the branch that was trained by gradient alone.
model = dict(teacher=dict(layout='mocov2', branch='online', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mocov2_r50.pth'))
