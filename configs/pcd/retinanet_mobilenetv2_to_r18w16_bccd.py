_base_ = ['../control/retinanet_mobilenetv2_to_r18w16_bccd.py', '../_base_/distillers/pcd_retinanet_r18w16_bccd.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
