"""DINOv3 ViT-S/16 teaches DeepLabV3-R18 by its map, Cityscapes. The file's name ends in its hash, as published."""

# pair: dinov3-vits16_to_deeplabv3_r18_cityscapes
_base_ = [
    '../pairs/dinov2-vits14_to_deeplabv3_r18_cityscapes.py',
    '../datasets/cityscapes_512x1024.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
model = dict(
    teacher=dict(
        model='dinov3_vits16',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dinov3_vits16_pretrain_lvd1689m-08c60483.pth',
    )
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
