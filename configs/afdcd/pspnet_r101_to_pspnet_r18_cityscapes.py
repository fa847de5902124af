_base_ = ['../control/pspnet_r101_to_pspnet_r18_cityscapes.py', '../_base_/distillers/afdcd_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/afdcd/{{ fileBasenameNoExtension }}'
