"""GFL: MobileNetV2 teaches a narrow ResNet-18, BCCD at half size; the small real pair of methods for GFL's head."""

# pair: gfl_mobilenetv2_to_r18w16_bccd
_base_ = [
    '../datasets/bccd.py',
    '../schedules/adamw_6e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/gfl_r18w16_fpn64.py'),
    teacher=dict(
        cfg='mmdistill_dense::teachers/gfl_mobilenetv2_bccd.py',
        checkpoint='work_dirs/gfl_mobilenetv2_bccd/epoch_12.pth',
    ),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
