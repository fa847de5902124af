_base_ = [
    '../pairs/pspnet_r101_to_pspnet_r18_cityscapes_mgd.py',
    '../datasets/cityscapes_512x512_stock.py',
    '../schedules/mgd_40k.py',
    '../runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
