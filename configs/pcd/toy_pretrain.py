_base_ = [
    '../_base_/pairs/toy_pretrain.py',
    '../_base_/datasets/shapes_views.py',
    '../_base_/schedules/pcd_toy_4e.py',
    '../_base_/runtime_pretrain.py',
    '../_base_/monitors/pcd.py',
    '../_base_/distillers/pcd_pretrain_toy.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
