_base_ = ['../_base_/recipes/deeplabv3_r101_to_mobilenetv2_cityscapes.py', '../_base_/distillers/cirkd_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/cirkd/{{ fileBasenameNoExtension }}'
