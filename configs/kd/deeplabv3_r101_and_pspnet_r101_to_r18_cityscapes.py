_base_ = [
    '../control/deeplabv3_r101_and_pspnet_r101_to_r18_cityscapes.py',
    '../_base_/distillers/kd_deeplabv3_and_pspnet.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/kd/{{ fileBasenameNoExtension }}'
