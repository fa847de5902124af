"""Small DINOs: MobileNetV2 of ImageNet weights teaches a narrow ResNet-18 from random weights, BCCD at half size."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/dino_r18w16_small.py'),
    teacher=dict(
        cfg='mmdistill_dense::_base_/models/dino_mobilenetv2_small.py',
        checkpoint='work_dirs/dino_mobilenetv2_bccd/epoch_24.pth',
    ),
)
