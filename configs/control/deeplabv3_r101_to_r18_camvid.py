_base_ = [
    '../_base_/pairs/deeplabv3_r101_to_r18_camvid.py',
    '../_base_/datasets/camvid_360x360.py',
    '../_base_/schedules/afdcd_40k.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
