"""DINOv2 ViT-S/14 teaches DeepLabV3-R18 by its map, CamVid."""

_base_ = './dinov2-vits14_to_deeplabv3_r18_cityscapes.py'
model = dict(
    student=dict(
        data_preprocessor=dict(size=(360, 360)),
        decode_head=dict(num_classes=11),
        auxiliary_head=dict(num_classes=11),
    )
)
