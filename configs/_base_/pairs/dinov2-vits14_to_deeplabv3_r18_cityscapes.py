"""DINOv2 ViT-S/14, which predicts nothing, teaches DeepLabV3-R18 by its map, Cityscapes; the student as in Af-DCD."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(
        cfg='mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        decode_head=dict(align_corners=True, loss_decode=dict(avg_non_ignore=True)),
        auxiliary_head=dict(align_corners=True, loss_decode=dict(avg_non_ignore=True)),
    ),
    teacher=dict(
        type='mmdistill_dense.FoundationTeacher',
        model='dinov2_vits14',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dinov2_vits14_pretrain.pth',
    ),
)
