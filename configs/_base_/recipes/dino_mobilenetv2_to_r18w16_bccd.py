"""Small DINOs: MobileNetV2 of ImageNet weights teaches a narrow ResNet-18 from random weights, BCCD at half size."""

# pair: dino_mobilenetv2_to_r18w16_bccd
_base_ = [
    '../datasets/bccd.py',
    '../schedules/detr_adamw_24e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/dino_r18w16_small.py'),
    teacher=dict(
        cfg='mmdistill_dense::_base_/models/dino_mobilenetv2_small.py',
        checkpoint='work_dirs/dino_mobilenetv2_bccd/epoch_24.pth',
    ),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
