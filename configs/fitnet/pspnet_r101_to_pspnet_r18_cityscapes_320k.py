_base_ = ['../_base_/recipes/pspnet_r101_to_pspnet_r18_cityscapes_320k.py', '../_base_/distillers/fitnet_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/fitnet/{{ fileBasenameNoExtension }}'
