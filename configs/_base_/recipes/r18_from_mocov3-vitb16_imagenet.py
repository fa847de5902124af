"""Pre-training: MoCo v3's ViT-B/16 with its projection head, the transformer of PCD's release, teaches a ResNet-18."""

# pair: r18_from_mocov3-vitb16
_base_ = [
    '../pairs/r18_from_mocov3-r50.py',
    '../datasets/imagenet_unlabeled.py',
    '../schedules/pcd_100e.py',
    '../runtime_pretrain.py',
]
model = dict(
    teacher=dict(
        backbone=dict(_delete_=True, type='mmdistill_dense.VisionTransformer', model='mocov3_vitb16'),
        layout='mocov3_vit',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mocov3_vitb16.pth',
    )
)
