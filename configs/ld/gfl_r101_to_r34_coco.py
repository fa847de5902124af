_base_ = ['../_base_/recipes/gfl_r101_to_r34_coco.py', '../_base_/distillers/ld_gfl_r18.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/ld/{{ fileBasenameNoExtension }}'
