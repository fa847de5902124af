"""Pre-training: DINOv3 ViT-S/16 teaches a ResNet-18 from random weights, on mixed pictures as in lightly-train."""

_base_ = './r18_from_mocov3-r50.py'
model = dict(
    student=dict(data_preprocessor=dict(mixup=True)),
    teacher=dict(
        _delete_=True,
        type='mmdistill_dense.FoundationTeacher',
        model='dinov3_vits16',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dinov3_vits16_pretrain_lvd1689m-08c60483.pth',
    ),
)
