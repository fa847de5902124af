"""RetinaNet: ResNet-101 teaches MobileNetV2 with leaky activations, the weights of mmdet's YOLOv3."""

_base_ = './retinanet_r101_to_r50_coco.py'
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
