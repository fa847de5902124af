"""RetinaNet: MobileNetV2 teaches a narrow ResNet-18, boxes of nuclei."""

# pair: retinanet_mobilenetv2_to_r18w16_nuclei
_base_ = [
    '../pairs/retinanet_mobilenetv2_to_r18w16_bccd.py',
    '../datasets/nuclei_detection.py',
    '../schedules/adamw_6e.py',
    '../runtime_det.py',
]
model = dict(
    student=dict(bbox_head=dict(num_classes=1, anchor_generator=dict(octave_base_scale=1))),
    teacher=dict(
        cfg='mmdistill_dense::teachers/retinanet_mobilenetv2_nuclei.py',
        checkpoint='work_dirs/retinanet_mobilenetv2_nuclei/epoch_12.pth',
    ),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
