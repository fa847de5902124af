_base_ = './deeplabv3_r101_to_r18_cityscapes_maskd.py'
model = dict(student=dict(pretrained=None))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
