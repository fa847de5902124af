_base_ = ['../control/deeplabv3_r101_to_pspnet_r18_voc_maskd.py', '../_base_/distillers/maskd_r18_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
