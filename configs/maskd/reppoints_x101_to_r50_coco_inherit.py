_base_ = ['../_base_/recipes/reppoints_x101_to_r50_coco.py', '../_base_/distillers/_maskd_reppoints_x101_inherit.py']
model = dict(distillers=_base_.distillers, inherit=[('neck', 'neck'), ('bbox_head', 'bbox_head')])
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
