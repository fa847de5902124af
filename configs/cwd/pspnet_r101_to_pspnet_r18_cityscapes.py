_base_ = [
    '../_base_/recipes/pspnet_r101_to_pspnet_r18_cityscapes.py',
    '../_base_/distillers/cwd_pspnet_r101_to_pspnet_r18_cityscapes.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/cwd/{{ fileBasenameNoExtension }}'
