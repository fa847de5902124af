_base_ = [
    '../pairs/dinov2-vits14_to_deeplabv3_r18_cityscapes.py',
    '../datasets/cityscapes_512x1024.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
