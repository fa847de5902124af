_base_ = ['../control/deeplabv3_r101_to_pspnet_r18_camvid.py', '../_base_/distillers/at_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/at/{{ fileBasenameNoExtension }}'
