_base_ = ['../_base_/recipes/toy_pretrain.py', '../_base_/distillers/pcd_pretrain_toy.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
