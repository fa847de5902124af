_base_ = [
    '../pairs/deeplabv3_r101_to_r18_camvid.py',
    '../datasets/camvid_360x360.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
