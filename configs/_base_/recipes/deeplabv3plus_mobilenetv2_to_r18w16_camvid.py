_base_ = [
    '../pairs/deeplabv3plus_mobilenetv2_to_r18w16_camvid.py',
    '../datasets/camvid_180x240.py',
    '../schedules/camvid_800.py',
    '../runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
