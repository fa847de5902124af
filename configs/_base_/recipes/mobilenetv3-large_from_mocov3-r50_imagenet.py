"""Pre-training: a self-supervised ResNet-50 (MoCo v3) teaches MobileNetV3-Large, in mmseg's form of stride 8."""

# pair: mobilenetv3-large_from_mocov3-r50
_base_ = [
    '../pairs/r18_from_mocov3-r50.py',
    '../datasets/imagenet_unlabeled.py',
    '../schedules/pcd_100e.py',
    '../runtime_pretrain.py',
]
model = dict(
    student=dict(
        backbone=dict(_delete_=True, type='mmseg.MobileNetV3', arch='large', out_indices=(1, 3, 16), norm_eval=False)
    )
)
