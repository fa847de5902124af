_base_ = ['../control/reppoints_x101_to_r50_coco.py', '../_base_/distillers/dist_reppoints.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
