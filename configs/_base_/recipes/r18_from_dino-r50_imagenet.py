"""Pre-training: a ResNet-50 of DINO teaches a ResNet-18."""

# pair: r18_from_dino-r50
_base_ = [
    '../pairs/r18_from_mocov3-r50.py',
    '../datasets/imagenet_unlabeled.py',
    '../schedules/pcd_100e.py',
    '../runtime_pretrain.py',
]
model = dict(teacher=dict(layout='dino', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dino_r50.pth'))
