_base_ = [
    '../_base_/models/deeplabv3_r18b_pcd.py',
    '../_base_/datasets/cityscapes_512x1024_stock.py',
    '../_base_/schedules/sgd_40k.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
