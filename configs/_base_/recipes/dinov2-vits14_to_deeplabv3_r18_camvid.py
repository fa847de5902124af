"""DINOv2 ViT-S/14 teaches DeepLabV3-R18 by its map, CamVid."""

# pair: dinov2-vits14_to_deeplabv3_r18_camvid
_base_ = [
    '../pairs/dinov2-vits14_to_deeplabv3_r18_cityscapes.py',
    '../datasets/camvid_360x360.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
model = dict(
    student=dict(
        data_preprocessor=dict(size=(360, 360)),
        decode_head=dict(num_classes=11),
        auxiliary_head=dict(num_classes=11),
    )
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
