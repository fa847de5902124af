_base_ = ['../_base_/recipes/reppoints_x101_to_r50_coco.py', '../_base_/distillers/freekd_det.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/freekd/{{ fileBasenameNoExtension }}'
