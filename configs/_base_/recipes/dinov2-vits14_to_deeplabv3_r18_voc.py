"""DINOv2 ViT-S/14 teaches DeepLabV3-R18 by its map, PASCAL VOC 2012."""

# pair: dinov2-vits14_to_deeplabv3_r18_voc
_base_ = [
    '../pairs/dinov2-vits14_to_deeplabv3_r18_cityscapes.py',
    '../datasets/voc12aug_512x512.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
model = dict(
    student=dict(
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=21),
        auxiliary_head=dict(num_classes=21),
    )
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
