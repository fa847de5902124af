_base_ = [
    '../pairs/dinov2-vits14_to_deeplabv3_r18_voc.py',
    '../datasets/voc12aug_512x512.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
