"""DINOv2 ViT-S/14 teaches a narrow RetinaNet-R18 (1.0 M parameters) by its map, BCCD at half size."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/retinanet_r18w16_fpn64.py'),
    teacher=dict(
        type='mmdistill_dense.FoundationTeacher',
        model='dinov2_vits14',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dinov2_vits14_pretrain.pth',
    ),
)
