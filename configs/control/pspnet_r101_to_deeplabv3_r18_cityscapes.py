_base_ = [
    '../_base_/pairs/pspnet_r101_to_deeplabv3_r18_cityscapes.py',
    '../_base_/datasets/cityscapes_512x512_stock.py',
    '../_base_/schedules/mgd_40k.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
