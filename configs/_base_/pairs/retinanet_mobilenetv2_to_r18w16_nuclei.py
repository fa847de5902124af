"""RetinaNet: MobileNetV2 teaches a narrow ResNet-18, boxes of nuclei."""

_base_ = './retinanet_mobilenetv2_to_r18w16_bccd.py'
model = dict(
    student=dict(bbox_head=dict(num_classes=1, anchor_generator=dict(octave_base_scale=1))),
    teacher=dict(
        cfg='mmdistill_dense::teachers/retinanet_mobilenetv2_nuclei.py',
        checkpoint='work_dirs/retinanet_mobilenetv2_nuclei/epoch_12.pth',
    ),
)
