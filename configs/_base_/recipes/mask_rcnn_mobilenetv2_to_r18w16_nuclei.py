"""Mask R-CNN: MobileNetV2 teaches a narrow ResNet-18, masks of nuclei; the small real pair of methods for RoI heads."""

# pair: mask_rcnn_mobilenetv2_to_r18w16_nuclei
_base_ = [
    '../datasets/nuclei.py',
    '../schedules/adamw_6e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/mask_rcnn_r18w16_fpn64.py'),
    teacher=dict(
        cfg='mmdistill_dense::teachers/mask_rcnn_mobilenetv2_nuclei.py',
        checkpoint='work_dirs/mask_rcnn_mobilenetv2_nuclei/epoch_12.pth',
    ),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
