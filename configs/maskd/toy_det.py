_base_ = ['../_base_/recipes/toy_det.py', '../_base_/distillers/maskd_toy_det.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
