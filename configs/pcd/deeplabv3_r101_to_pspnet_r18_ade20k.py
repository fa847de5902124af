_base_ = ['../control/deeplabv3_r101_to_pspnet_r18_ade20k.py', '../_base_/distillers/pcd_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
