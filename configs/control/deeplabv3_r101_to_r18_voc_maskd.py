_base_ = [
    '../_base_/pairs/deeplabv3_r101_to_r18_voc.py',
    '../_base_/datasets/voc12aug_512x512.py',
    '../_base_/schedules/maskd_40k.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
