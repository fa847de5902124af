_base_ = [
    '../_base_/pairs/deeplabv3_r101_to_pspnet_r18_cocostuff.py',
    '../_base_/datasets/cocostuff_512x512.py',
    '../_base_/schedules/cirkd_80k.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
