_base_ = './deeplabv3_r101_to_r18_cityscapes.py'
model = dict(distillers=dict(kd=dict(loss_weight=0), afdcd=dict(ctr_weight=0)))
work_dir = 'work_dirs/afdcd/{{ fileBasenameNoExtension }}'
