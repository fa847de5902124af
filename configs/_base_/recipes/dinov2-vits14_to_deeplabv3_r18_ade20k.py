"""DINOv2 ViT-S/14 teaches DeepLabV3-R18 by its map, ADE20K."""

# pair: dinov2-vits14_to_deeplabv3_r18_ade20k
_base_ = [
    '../pairs/dinov2-vits14_to_deeplabv3_r18_cityscapes.py',
    '../datasets/ade20k_512x512.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
model = dict(
    student=dict(
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=150),
        auxiliary_head=dict(num_classes=150),
    )
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
