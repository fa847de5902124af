_base_ = [
    '../_base_/recipes/deeplabv3_r101_to_pspnet_r18_cityscapes_maskd.py',
    '../_base_/distillers/dist_r101_r18_seg.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
