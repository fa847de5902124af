_base_ = ['../control/deeplabv3_r101_to_r18_cityscapes.py', '../_base_/distillers/cirkd_cityscapes.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/cirkd/{{ fileBasenameNoExtension }}'
