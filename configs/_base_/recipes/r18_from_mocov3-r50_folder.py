_base_ = [
    '../pairs/r18_from_mocov3-r50.py',
    '../datasets/unlabeled_folder.py',
    '../schedules/pcd_100e.py',
    '../runtime_pretrain.py',
]
