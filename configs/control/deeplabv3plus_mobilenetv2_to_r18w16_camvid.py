_base_ = [
    '../_base_/pairs/deeplabv3plus_mobilenetv2_to_r18w16_camvid.py',
    '../_base_/datasets/camvid_180x240.py',
    '../_base_/schedules/camvid_800.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
