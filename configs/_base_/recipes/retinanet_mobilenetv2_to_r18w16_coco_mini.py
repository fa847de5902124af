"""RetinaNet: MobileNetV2 teaches a narrow ResNet-18, the 80 classes of COCO on a few of its images."""

# pair: retinanet_mobilenetv2_to_r18w16_coco_mini
_base_ = [
    '../pairs/retinanet_mobilenetv2_to_r18w16_bccd.py',
    '../datasets/coco_mini.py',
    '../schedules/adamw_6e.py',
    '../runtime_det.py',
]
model = dict(
    student=dict(bbox_head=dict(num_classes=80)),
    teacher=dict(
        cfg='mmdistill_dense::teachers/retinanet_mobilenetv2_coco_mini.py',
        checkpoint='work_dirs/retinanet_mobilenetv2_coco_mini/epoch_12.pth',
    ),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
