_base_ = ['../_base_/recipes/toy_seg.py', '../_base_/distillers/afdcd_toy_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/afdcd/{{ fileBasenameNoExtension }}'
