_base_ = './deeplabv3_r101_to_r18_cityscapes.py'
model = dict(student=dict(pretrained=None))
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
