_base_ = [
    '../_base_/models/deeplabv3_r18b_pcd_ade20k.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/sgd_40k.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
