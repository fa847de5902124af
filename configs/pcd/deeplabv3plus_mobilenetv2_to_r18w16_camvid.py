_base_ = ['../control/deeplabv3plus_mobilenetv2_to_r18w16_camvid.py', '../_base_/distillers/pcd_r18w16_camvid.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
