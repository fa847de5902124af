_base_ = [
    '../_base_/pairs/toy_seg.py',
    '../_base_/datasets/shapes_96x128.py',
    '../_base_/schedules/toy_600.py',
    '../_base_/runtime_seg.py',
    '../_base_/distillers/pcd_seg_toy.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'  # another method's leaf of that name has its own
