_base_ = './deeplabv3_r101_to_r18_cityscapes.py'
model = dict(distillers=dict(afdcd=dict(contrast='channel')))
work_dir = 'work_dirs/afdcd/{{ fileBasenameNoExtension }}'
