_base_ = [
    '../pairs/toy_pretrain.py',
    '../datasets/shapes_views.py',
    '../schedules/pcd_toy_4e.py',
    '../runtime_pretrain.py',
]
