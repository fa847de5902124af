"""RetinaNet: ResNet-101 teaches MobileNetV2 with leaky activations, the weights of mmdet's YOLOv3."""

# pair: retinanet_r101_to_mobilenetv2_coco
_base_ = [
    '../pairs/retinanet_r101_to_r50_coco.py',
    '../datasets/coco_detection.py',
    '../schedules/retinanet_2x.py',
    '../runtime_det.py',
]
model = dict(
    student=dict(
        backbone=dict(
            type='MobileNetV2',
            out_indices=(1, 2, 4, 6),
            act_cfg=dict(type='LeakyReLU', negative_slope=0.1),
            init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2'),
        ),
        neck=dict(in_channels=[24, 32, 96, 320]),
    )
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
