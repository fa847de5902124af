_base_ = [
    '../_base_/models/deeplabv3plus_r18w16_camvid.py',
    '../_base_/datasets/camvid_180x240.py',
    '../_base_/schedules/camvid_800.py',
    '../_base_/runtime_seg.py',
]
model = dict(backbone=dict(init_cfg=None))
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
