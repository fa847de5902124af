_base_ = [
    '../pairs/r18w16_from_mobilenetv2.py',
    '../datasets/unlabeled_small.py',
    '../schedules/pcd_adamw_100e.py',
    '../runtime_pretrain.py',
]
