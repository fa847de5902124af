_base_ = [
    '../_base_/pairs/mobilenetv2w05_from_mobilenetv2.py',
    '../_base_/datasets/unlabeled_small.py',
    '../_base_/schedules/pcd_adamw_100e.py',
    '../_base_/runtime_pretrain.py',
    '../_base_/monitors/pcd_camvid.py',
    '../_base_/distillers/pcd_pretrain_small.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
