_base_ = ['../control/deeplabv3_r101_to_r18_cityscapes_maskd.py', '../_base_/distillers/maskd_r18_cityscapes_dist.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
