_base_ = ['../control/retinanet_r101_to_mobilenetv2_coco.py', '../_base_/distillers/dist_retinanet.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
