_base_ = ['../_base_/recipes/rtmdet_s_to_tiny_coco.py', '../_base_/distillers/cwd_rtmdet.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/cwd/{{ fileBasenameNoExtension }}'
