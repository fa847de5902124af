_base_ = ['../_base_/recipes/toy_seg.py', '../_base_/distillers/kd_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/kd/{{ fileBasenameNoExtension }}'
