_base_ = ['../control/deeplabv3_r101_to_mobilenetv2_cityscapes.py', '../_base_/distillers/dist_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
