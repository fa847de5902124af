_base_ = ['../_base_/recipes/r18_from_mocov3-r50_folder.py', '../_base_/distillers/pcd_pretrain.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
