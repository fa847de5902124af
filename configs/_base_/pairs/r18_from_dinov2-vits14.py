"""Pre-training: DINOv2 ViT-S/14 teaches a ResNet-18 from random weights, on mixed pictures as in lightly-train."""

_base_ = './r18_from_mocov3-r50.py'
model = dict(
    student=dict(data_preprocessor=dict(mixup=True)),
    teacher=dict(
        _delete_=True,
        type='mmdistill_dense.FoundationTeacher',
        model='dinov2_vits14',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dinov2_vits14_pretrain.pth',
    ),
)
