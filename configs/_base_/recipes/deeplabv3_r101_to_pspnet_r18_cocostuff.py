_base_ = [
    '../pairs/deeplabv3_r101_to_pspnet_r18_cocostuff.py',
    '../datasets/cocostuff_512x512.py',
    '../schedules/cirkd_80k.py',
    '../runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
