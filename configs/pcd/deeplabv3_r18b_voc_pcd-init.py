_base_ = [
    '../_base_/models/deeplabv3_r18b_pcd_voc.py',
    '../_base_/datasets/voc12aug_512x512.py',
    '../_base_/schedules/sgd_40k.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
