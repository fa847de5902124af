"""Pre-training: a self-supervised ResNet-50 (MoCo v3) teaches a ResNet-34."""

# pair: r34_from_mocov3-r50
_base_ = [
    '../pairs/r18_from_mocov3-r50.py',
    '../datasets/imagenet_unlabeled.py',
    '../schedules/pcd_100e.py',
    '../runtime_pretrain.py',
]
model = dict(student=dict(backbone=dict(depth=34)))
