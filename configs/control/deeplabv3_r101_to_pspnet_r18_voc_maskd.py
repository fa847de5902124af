_base_ = '../maskd/deeplabv3_r101_to_pspnet_r18_voc.py'
model = dict(distillers=dict(_delete_=True))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
