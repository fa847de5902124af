"""Pre-training: a self-supervised ResNet-50 (MoCo v3) teaches MobileNetV3-Large, in mmseg's form of stride 8."""

_base_ = './r18_from_mocov3-r50.py'
model = dict(
    student=dict(
        backbone=dict(_delete_=True, type='mmseg.MobileNetV3', arch='large', out_indices=(1, 3, 16), norm_eval=False)
    )
)
