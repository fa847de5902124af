_base_ = [
    '../_base_/pairs/deeplabv3_r101_and_pspnet_r101_to_r18_cityscapes.py',
    '../_base_/datasets/cityscapes_512x1024.py',
    '../_base_/schedules/afdcd_40k.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
