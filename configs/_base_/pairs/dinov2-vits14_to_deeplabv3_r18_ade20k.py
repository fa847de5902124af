"""DINOv2 ViT-S/14 teaches DeepLabV3-R18 by its map, ADE20K."""

_base_ = './dinov2-vits14_to_deeplabv3_r18_cityscapes.py'
model = dict(
    student=dict(
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=150),
        auxiliary_head=dict(num_classes=150),
    )
)
