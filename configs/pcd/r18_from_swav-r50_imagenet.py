_base_ = [
    '../_base_/pairs/r18_from_swav-r50.py',
    '../_base_/datasets/imagenet_unlabeled.py',
    '../_base_/schedules/pcd_100e.py',
    '../_base_/runtime_pretrain.py',
    '../_base_/monitors/pcd.py',
    '../_base_/distillers/pcd_pretrain.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
