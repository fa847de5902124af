"""RetinaNet: MobileNetV2 (2.6 M parameters) teaches a narrow ResNet-18 (1.0 M), BCCD at half size."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/retinanet_r18w16_fpn64.py'),
    teacher=dict(
        cfg='mmdistill_dense::teachers/retinanet_mobilenetv2_bccd.py',
        checkpoint='work_dirs/retinanet_mobilenetv2_bccd/epoch_12.pth',
    ),
)
