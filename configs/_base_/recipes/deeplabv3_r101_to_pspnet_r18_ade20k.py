_base_ = [
    '../pairs/deeplabv3_r101_to_pspnet_r18_ade20k.py',
    '../datasets/ade20k_512x512.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
