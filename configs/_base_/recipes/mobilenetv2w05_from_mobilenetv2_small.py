_base_ = [
    '../pairs/mobilenetv2w05_from_mobilenetv2.py',
    '../datasets/unlabeled_small.py',
    '../schedules/pcd_adamw_100e.py',
    '../runtime_pretrain.py',
]
