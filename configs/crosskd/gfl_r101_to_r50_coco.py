_base_ = ['../_base_/recipes/gfl_r101_to_r50_coco.py', '../_base_/distillers/crosskd_gfl.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/crosskd/{{ fileBasenameNoExtension }}'
