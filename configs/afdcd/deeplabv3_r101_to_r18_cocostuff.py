_base_ = ['../control/deeplabv3_r101_to_r18_cocostuff.py', '../_base_/distillers/afdcd_deeplabv3_r101_cocostuff.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/afdcd/{{ fileBasenameNoExtension }}'
