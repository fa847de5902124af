# method: maskd
_base_ = [
    '../pairs/deeplabv3_r101_to_r18_ade20k.py',
    '../datasets/ade20k_512x512.py',
    '../schedules/maskd_40k.py',
    '../runtime_seg.py',
]
model = dict(teacher=dict(cfg='mmseg::deeplabv3/deeplabv3_r101-d8_4xb4-160k_ade20k-512x512.py'))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
