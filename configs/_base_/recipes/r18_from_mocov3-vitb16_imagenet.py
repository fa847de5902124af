_base_ = [
    '../pairs/r18_from_mocov3-vitb16.py',
    '../datasets/imagenet_unlabeled.py',
    '../schedules/pcd_100e.py',
    '../runtime_pretrain.py',
]
