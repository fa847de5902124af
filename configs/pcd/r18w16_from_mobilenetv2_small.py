_base_ = ['../_base_/recipes/r18w16_from_mobilenetv2_small.py', '../_base_/distillers/pcd_pretrain_small.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
