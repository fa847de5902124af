_base_ = [
    '../_base_/recipes/deeplabv3_r101_to_pspnet_r18_cityscapes_maskd.py',
    '../_base_/distillers/maskd_r18_cityscapes.py',
]
model = dict(distillers=_base_.distillers, student=dict(pretrained=None))
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
