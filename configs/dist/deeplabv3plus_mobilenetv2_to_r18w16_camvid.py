_base_ = ['../control/deeplabv3plus_mobilenetv2_to_r18w16_camvid.py', '../_base_/distillers/dist_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
